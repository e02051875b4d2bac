"""Requests go to the engine with the least to do; how many have a model follows its load."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from llmos.errors import LlmosError, ModelLoadingError, OutOfMemoryError
from llmos.kernel.fleet import CALM_S, SETTLE_S, Device, Fleet
from llmos.kernel.ledger import Ledger
from llmos.kernel.models import Model, ModelSpec
from llmos.kernel.replicas import Replicate, Retire
from llmos.kernel.state import ResidentModel
from llmos.kernel.telemetry import Telemetry
from llmos.types import EngineStats, Priority

SPEC = ModelSpec("k", "echo", "/", {}, 10, "m:1")


class Residency:
    """One engine's models, which tests set as they like."""

    def __init__(self, name: str, refuses: bool = False) -> None:
        self.name, self.refuses = name, refuses
        self.models: dict[str, Model] = {}
        self.leased: list[str] = []
        self.stopped = False
        self.waits: asyncio.Queue[LlmosError | None] | None = None
        """How each lease of a model that is not there yet goes, once the test says so."""

    def model(self, key: str) -> Model | None:
        return self.models.get(key)

    def resident(self) -> tuple[ResidentModel, ...]:
        found = (model.resident(0.0, 1.0) for model in self.models.values())
        return tuple(model for model in found if model)

    def status(self) -> list[dict[str, Any]]:
        return [{"name": model.spec.name} for model in self.models.values()]

    @contextlib.asynccontextmanager
    async def lease(self, spec: ModelSpec, priority: Any, *_: Any, **__: Any) -> AsyncIterator[str]:
        if self.refuses:
            raise OutOfMemoryError("no room")
        if self.waits is not None and spec.key not in self.models:
            self.models[spec.key] = Model(spec, 10, num_bytes=10, state="loading")
        if self.waits is not None and (error := await self.waits.get()):
            raise error
        self.leased.append(spec.key)
        self.ready(spec)
        yield self.name

    def ready(self, spec: ModelSpec = SPEC) -> Model:
        model = self.models.setdefault(spec.key, Model(spec, 10, num_bytes=10))
        model.state = "ready"
        return model

    def pin(self, specs: Any) -> None:
        for spec in specs.values():
            self.ready(spec).is_pinned = True

    async def stop(self) -> None:
        self.stopped = True


class Bench:
    """A fleet over such engines, and its clock."""

    def __init__(self, count: int = 3, **changes: bool) -> None:
        self.now = 1000.0
        self.engines = [Residency(f"cpu:{i}", **changes) for i in range(count)]
        devices: Any = [Device(one.name, Ledger(100), one) for one in self.engines]  # type: ignore[arg-type]
        self.fleet = Fleet(devices, Telemetry(), lambda: self.now, target_queue_s=1.0)

    async def ask(self, spec: ModelSpec = SPEC) -> str:
        async with self.fleet.lease(spec) as name:
            return str(name)

    def load(self, waiting: int, running: int = 1) -> None:
        """Every engine that has the model has so many works of it."""
        for engine in self.engines:
            if model := engine.model("k"):
                stats = EngineStats(running=(0, running, 0, 0), waiting=(0, waiting, 0, 0))
                model.stats = stats
                model.queues[Priority.STANDARD].interval_s = 1.0

    async def look(self, seconds: float) -> list[Replicate | Retire]:
        """Look once a second for so long; return what was done."""
        done: list[Replicate | Retire] = []
        for _ in range(round(seconds)):
            self.now += 1.0
            done += self.fleet.look()
            await asyncio.wait(self.fleet._loads, timeout=0.01) if self.fleet._loads else None
        return done


async def test_a_server_with_one_engine_asks_it() -> None:
    bench = Bench(1)
    assert await bench.ask() == "cpu:0"
    await bench.fleet.start()
    await bench.fleet.stop()
    assert bench.engines[0].stopped


async def test_a_model_is_first_loaded_where_there_is_most_room() -> None:
    bench = Bench()
    bench.fleet.devices[0].ledger.reserve("x", 50)
    bench.fleet.devices[2].ledger.reserve("x", 20)
    assert await bench.ask() == "cpu:1"
    bench.fleet.devices[1].ledger.reserve("x", 90)
    assert await bench.ask() == "cpu:1"  # it is there already


async def test_of_those_that_have_it_the_one_with_the_least_to_do_answers() -> None:
    bench = Bench()
    await bench.ask()
    bench.load(waiting=9)
    await bench.look(SETTLE_S)
    assert bench.engines[1].leased == ["k"]
    bench.engines[0].ready().queues[Priority.BATCH].begin("a", 3)
    assert await bench.ask() == "cpu:1"
    bench.engines[1].ready().queues[Priority.BATCH].begin("a", 4)
    assert await bench.ask() == "cpu:0"


async def test_a_model_whose_requests_wait_gets_more_engines_until_they_do_not() -> None:
    bench = Bench()
    await bench.ask()
    bench.load(waiting=9)
    assert await bench.look(SETTLE_S) == [Replicate("k", "cpu:1")]
    bench.load(waiting=9)
    assert await bench.look(SETTLE_S - 1) == []
    assert await bench.look(1) == [Replicate("k", "cpu:2")]
    bench.load(waiting=9)
    assert await bench.look(60) == []  # there are no more


async def test_a_replica_that_is_still_being_loaded_is_awaited_before_there_are_more() -> None:
    bench = Bench(4)
    await bench.ask()
    for engine in bench.engines[1:]:
        engine.waits = asyncio.Queue()
    bench.load(waiting=9)
    assert await bench.look(SETTLE_S) == [Replicate("k", "cpu:1")]
    assert await bench.look(60) == []  # so long it takes
    loaded = bench.engines[1].waits
    assert loaded is not None
    loaded.put_nowait(None)
    assert await bench.look(SETTLE_S) == []
    bench.load(waiting=9)
    loaded.put_nowait(None)
    assert await bench.ask() in ("cpu:0", "cpu:1")
    more = await bench.look(1)
    assert more == [Replicate("k", "cpu:2"), Replicate("k", "cpu:3")]
    await bench.fleet.stop()


async def test_a_load_may_take_longer_than_requests_wait(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(2)
    await bench.ask()
    waits = bench.engines[1].waits = asyncio.Queue()
    bench.load(waiting=9)
    await bench.look(SETTLE_S)
    for outcome in (ModelLoadingError(), ModelLoadingError(), None):
        waits.put_nowait(outcome)
    await bench.look(1)
    assert bench.fleet._served["k"].homes == ["cpu:0", "cpu:1"]
    assert "cannot have" not in caplog.text


async def test_an_engine_that_did_not_even_begin_to_load_a_model_is_given_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(2)
    await bench.ask()
    waits = bench.engines[1].waits = asyncio.Queue()
    bench.load(waiting=9)
    await bench.look(SETTLE_S)
    bench.engines[1].models["k"].state = "absent"
    waits.put_nowait(ModelLoadingError())
    await bench.look(1)
    assert bench.fleet._served["k"].homes == ["cpu:0"]
    assert "cpu:1 cannot have m:1 too" in caplog.text


async def test_who_asks_when_only_the_engine_that_loads_a_model_is_left_is_sent_there() -> None:
    bench = Bench(3)
    await bench.ask()
    bench.engines[1].waits = asyncio.Queue()
    bench.load(waiting=9)
    await bench.look(SETTLE_S)
    del bench.engines[0].models["k"]
    await bench.look(1)
    bench.fleet.devices[1].ledger.reserve("x", 90)
    for _ in range(2):
        bench.engines[1].waits.put_nowait(None)
    assert await bench.ask() == "cpu:1"


async def test_a_model_that_was_quiet_for_long_is_asked_of_fewer() -> None:
    bench = Bench()
    await bench.ask()
    bench.load(waiting=9)
    await bench.look(SETTLE_S)
    bench.load(waiting=0, running=0)
    assert await bench.look(CALM_S - 10) == []
    (change,) = await bench.look(20)
    assert isinstance(change, Retire)
    left = {"cpu:0", "cpu:1"} - {change.device}
    assert {await bench.ask() for _ in range(5)} == left


async def test_constant_load_moves_nothing() -> None:
    bench = Bench()
    await bench.ask()
    bench.load(waiting=0, running=4)
    assert await bench.look(300) == []


async def test_an_engine_that_evicted_a_model_is_not_asked_for_it() -> None:
    bench = Bench()
    await bench.ask()
    bench.load(waiting=9)
    await bench.look(SETTLE_S)
    bench.load(waiting=0)
    del bench.engines[0].models["k"]
    bench.engines[1].ready().queues[Priority.BATCH].begin("a", 40)
    assert await bench.ask() == "cpu:1"
    await bench.look(1)
    assert await bench.ask() == "cpu:1"


async def test_an_engine_without_room_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    await bench.ask()
    bench.load(waiting=9)
    for engine in bench.engines[1:]:
        engine.refuses = True
    assert len(await bench.look(SETTLE_S)) == 1
    assert "cannot have m:1 too: no room" in caplog.text
    assert {await bench.ask() for _ in range(5)} == {"cpu:0"}


async def test_what_nobody_has_any_more_is_forgotten() -> None:
    bench = Bench()
    await bench.ask()
    bench.engines[0].models.clear()
    await bench.look(1)
    assert bench.fleet._served == {}


async def test_pinned_models_are_answered_by_the_first_engine() -> None:
    bench = Bench()
    bench.fleet.devices[0].ledger.reserve("x", 90)
    bench.fleet.pin({"k": SPEC})
    assert await bench.ask() == "cpu:0"


def test_status_says_which_engine_has_what() -> None:
    bench = Bench(2)
    bench.engines[1].ready()
    assert bench.fleet.status() == [{"name": "m:1", "device": "cpu:1"}]
