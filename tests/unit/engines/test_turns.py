"""Models taking turns: who is charged for a step, and what the host knows of an engine's works."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from llmos.engines.base import Urgency
from llmos.engines.echo import EchoEngine
from llmos.engines.turns import KEEP_S, HostedModel, Turns
from llmos.types import (
    EngineStats,
    GenerateWork,
    Priority,
    SamplingParams,
    TokenPiece,
    TokensOut,
)

ENDLESS = SamplingParams(max_tokens=10**9, ignore_eos=True)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedEngine(EchoEngine):
    """Takes ``step_s`` for a step and remembers the virtual times it was given."""

    def __init__(self, clock: Clock, step_s: float) -> None:
        super().__init__()
        self.clock, self.step_s = clock, step_s
        self.virtual_ms: Mapping[str, float] = {}
        self.shares: dict[str, float] = {}

    def step(self) -> list[Any]:
        self.clock.now += self.step_s
        return super().step()

    def set_virtual_times(self, virtual_ms: Mapping[str, float]) -> None:
        self.virtual_ms = virtual_ms

    def last_shares(self) -> Mapping[str, float]:
        return self.shares


class TalkativeEngine(EchoEngine):
    """Says itself how urgent it is and what it does."""

    def urgency(self, now: float) -> Urgency:
        return Urgency(now, 0, ("x",))

    def stats(self) -> EngineStats:
        return EngineStats(generated_tokens=7)


def work(tenant: str, priority: Priority = Priority.STANDARD, **fields: Any) -> GenerateWork:
    return GenerateWork((1,), ENDLESS, priority=priority, tenant=tenant, **fields)


def give(model: HostedModel, work_id: str, given: GenerateWork, now: float = 0.0) -> None:
    model.engine.submit(work_id, given)
    model.add(work_id, given, now)


def run(turns: Turns, models: dict[str, HostedModel], num_steps: int) -> list[str]:
    """Step that many times; return whose steps they were."""
    picked = []
    for _ in range(num_steps):
        key = turns.next(models)
        assert key is not None
        turns.step(key, models[key])
        picked.append(key)
    return picked


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_nobody_is_picked_where_there_is_no_work(clock: Clock) -> None:
    assert Turns(clock).next({"m": HostedModel(EchoEngine())}) is None


def test_tenants_share_the_time_however_long_their_models_steps_are(clock: Clock) -> None:
    models = {"quick": HostedModel(TimedEngine(clock, 0.1))}
    models["slow"] = HostedModel(TimedEngine(clock, 0.4))
    give(models["quick"], "a", work("anna"))
    give(models["slow"], "b", work("bert"))
    picked = run(Turns(clock), models, 100)
    assert picked.count("quick") == 4 * picked.count("slow")


def test_a_step_is_charged_by_the_shares_that_the_engine_tells(clock: Clock) -> None:
    engine = TimedEngine(clock, 0.1)
    model = HostedModel(engine)
    give(model, "a", work("anna"))
    give(model, "b", work("bert", Priority.BATCH))
    turns = Turns(clock)
    run(turns, {"m": model}, 1)
    assert engine.virtual_ms == pytest.approx({"anna": 50, "bert": 50})
    engine.shares = {"anna": 0.9, "bert": 0.1}
    run(turns, {"m": model}, 1)
    assert engine.virtual_ms == pytest.approx({"anna": 140, "bert": 60})


def test_the_seconds_of_steps_are_told_once_by_model_and_tenant(clock: Clock) -> None:
    engine = TimedEngine(clock, 0.1)
    models = {"m": HostedModel(engine)}
    give(models["m"], "a", work("anna"))
    give(models["m"], "b", work("bert"))
    engine.shares = {"anna": 0.75, "bert": 0.25}
    turns = Turns(clock)
    run(turns, models, 4)
    assert turns.take_computed() == {"m": pytest.approx({"anna": 0.3, "bert": 0.1})}
    assert turns.take_computed() == {}


def test_works_are_known_by_class_tenant_and_deadline_until_they_end() -> None:
    model = HostedModel(EchoEngine())
    give(model, "a", work("anna", Priority.BATCH, deadline_s=5.0), now=100.0)
    give(model, "b", work("bert", deadline_s=9.0), now=100.0)
    give(model, "c", work("anna"))
    urgency = model.urgency(101.0)
    assert (urgency.slack_s, urgency.priority) == (4.0, Priority.STANDARD)
    assert set(urgency.tenants) == {"anna", "bert"}
    assert model.shares() == pytest.approx({"anna": 2 / 3, "bert": 1 / 3})
    assert model.stats().running == (0, 2, 1, 0)
    assert model.expired(105.0) == ["a"]
    for work_id in ("b", "c", "unknown"):
        model.remove(work_id)
    assert model.urgency(101.0) == Urgency(4.0, Priority.BATCH, ("anna",))
    model.remove("a")
    assert (model.shares(), model.works, model.next_deadline) == ({}, {}, math.inf)


def test_what_an_engine_says_counts_more_than_what_its_works_say() -> None:
    model = HostedModel(TalkativeEngine())
    assert model.urgency(3.0) == Urgency(3.0, 0, ("x",))
    assert model.stats().generated_tokens == 7


class StreamingEngine(EchoEngine):
    """Streams, and asks others for short steps; notes what it is asked for itself."""

    limit_s = math.inf

    def urgency(self, now: float) -> Urgency:
        return Urgency(step_limit_s=0.09)

    def set_step_limit(self, seconds: float) -> None:
        self.limit_s = seconds


class ModestEngine(EchoEngine):
    limit_s = math.inf

    def set_step_limit(self, seconds: float) -> None:
        self.limit_s = seconds


def test_steps_are_limited_while_another_model_streams(clock: Clock) -> None:
    engines = {"m": ModestEngine(), "n": StreamingEngine()}
    models = {key: HostedModel(engine) for key, engine in engines.items()}
    give(models["n"], "a", work("anna"))
    turns = Turns(clock)
    run(turns, models, 2)
    assert engines["n"].limit_s == math.inf  # nobody else is there
    give(models["m"], "b", work("bert"))
    run(turns, models, 6)
    assert engines["m"].limit_s == 0.09
    models["n"].engine.cancel("a")
    run(turns, models, 1)
    assert engines["m"].limit_s == math.inf


def test_a_work_that_is_wanted_whole_is_reported_at_first_now_and_then_and_at_its_end() -> None:
    model = HostedModel(EchoEngine())
    model.add("w", GenerateWork((1, 2), ENDLESS, is_whole=True), 0.0)
    model.add("streamed", GenerateWork((1, 2), ENDLESS), 0.0)
    one = [TokensOut((TokenPiece(number),)) for number in range(6)]
    assert model.report("streamed", one[0], 0.0) == one[0]
    assert model.report("w", one[0], 0.0) == one[0], "the time to the first token is known"
    assert model.report("w", one[1], KEEP_S / 2) is None
    both = model.report("w", one[2], KEEP_S)
    assert both == TokensOut((TokenPiece(1), TokenPiece(2)))
    assert model.report("w", one[3], KEEP_S * 1.5) is None
    last = model.report("w", TokensOut((TokenPiece(4),), "stop"), KEEP_S * 1.6)
    assert last == TokensOut((TokenPiece(3), TokenPiece(4)), "stop")
    model.remove("w")
    assert not model._kept
