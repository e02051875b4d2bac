"""The engine over a simulated network whose cache is checked: rows, blocks, classes, time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.engines.simulated import (
    COST,
    VOCAB,
    drain,
    expected_tokens,
    logits_after,
    make_engine,
)

from llmos.engines.native import engine as engines
from llmos.engines.native.predictor import StepCost
from llmos.errors import DeadlineExceededError, EngineError
from llmos.types import GenerateWork, Priority, SamplingParams, TokensOut


def work(
    prompt: tuple[int, ...], max_tokens: int = 4, temperature: float = 0.0, **fields: Any
) -> GenerateWork:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=sum(prompt))
    return GenerateWork(prompt, sampling, **fields)


def prompt_of(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = np.random.default_rng(seed)
    return tuple(int(token) for token in generator.integers(0, VOCAB, length))


# -- whatever happens ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrival:
    at: int
    priority: Priority
    stem: int
    stem_tokens: int
    own_tokens: int
    max_tokens: int
    temperature: float
    salt: bytes
    cancel_after: int | None
    scores_prompt: bool

    def work(self, number: int) -> GenerateWork:
        prompt = (*prompt_of(24, self.stem)[: self.stem_tokens], *prompt_of(9, 100 + number))
        return work(
            prompt[: self.stem_tokens + self.own_tokens],
            self.max_tokens,
            self.temperature,
            priority=self.priority,
            cache_salt=self.salt,
            tenant=str(self.stem),
            prompt_logprobs=1 if self.scores_prompt else None,
        )


arrivals = st.lists(
    st.builds(
        Arrival,
        at=st.integers(0, 25),
        priority=st.sampled_from(list(Priority)),
        stem=st.integers(0, 1),
        stem_tokens=st.integers(0, 24),
        own_tokens=st.integers(1, 9),
        max_tokens=st.integers(1, 16),
        temperature=st.sampled_from([0.0, 1.0]),
        salt=st.sampled_from([b"", b"", b"other"]),
        cancel_after=st.one_of(st.none(), st.none(), st.integers(0, 12)),
        scores_prompt=st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=150, deadline=None)
@given(
    arrivals=arrivals,
    extra_blocks=st.integers(0, 12),
    max_rows=st.integers(1, 6),
    max_step_tokens=st.integers(6, 40),
    block_size=st.sampled_from([1, 4, 5]),
    speculates=st.booleans(),
    broken=st.sampled_from([set(), set(), {"1"}]),
    ageing_tokens=st.sampled_from([40, 10_000]),
    max_step_logits=st.sampled_from([3, 10, 1000]),
)
def test_every_row_gets_its_tokens_and_no_block_leaks_or_is_shared_wrongly(
    arrivals: list[Arrival],
    extra_blocks: int,
    max_rows: int,
    max_step_tokens: int,
    block_size: int,
    speculates: bool,
    broken: set[str],
    ageing_tokens: int,
    max_step_logits: int,
) -> None:
    """The runner asserts that whatever a row reads through its blocks is its own past."""
    with patch.object(engines, "LOGITS_BYTES", 4 * VOCAB * max_step_logits):
        check_all(
            arrivals,
            broken,
            num_blocks=-(-50 // block_size) + extra_blocks,
            block_size=block_size,
            max_rows=max_rows,
            max_step_tokens=max_step_tokens,
            speculates=speculates,
            ageing_tokens=ageing_tokens,
        )


def may_share(one: GenerateWork, other: GenerateWork) -> bool:
    return (one.prompt_ids[0], one.cache_salt) == (other.prompt_ids[0], other.cache_salt)


def check_all(arrivals: list[Arrival], broken: set[str], max_rows: int, **options: Any) -> None:
    engine, runner = make_engine(max_tokens=50, max_rows=max_rows, **options)
    runner.broken = broken
    works = {str(i): arrival.work(i) for i, arrival in enumerate(arrivals)}
    tokens: dict[str, list[int]] = {i: [] for i in works}
    scored: dict[str, tuple[int, ...]] = {}
    ended: set[str] = set()
    failed: set[str] = set()
    cancelled: set[str] = set()
    for step in range(3000):
        for i, arrival in enumerate(arrivals):
            if arrival.at == step:
                engine.submit(str(i), works[str(i)])
            if arrival.cancel_after is not None and arrival.at + arrival.cancel_after == step:
                engine.cancel(str(i))
                cancelled.add(str(i))
        for i, out in engine.step():
            assert i not in ended | cancelled
            if isinstance(out, EngineError):
                # One that took up what a broken row had left behind breaks with it.
                assert i in broken or any(may_share(works[i], works[other]) for other in broken)
                ended.add(i)
                failed.add(i)
            else:
                assert isinstance(out, TokensOut)
                tokens[i] += [piece.token_id for piece in out.pieces]
                scored[i] = scored.get(i, ()) + tuple(piece.token_id for piece in out.prompt)
                if out.finish_reason:
                    ended.add(i)
        stats = engine.stats()
        assert stats.kv_used_blocks <= stats.kv_blocks
        assert sum(stats.running) <= max_rows
        if step > 40 and not engine.has_work:
            break
    assert ended | cancelled == set(works), "a row starves"
    assert engine.stats().kv_used_blocks == 0
    for i, got in tokens.items():
        wanted = expected_tokens(works[i])
        if i in ended - failed:
            assert got == wanted
            asked = works[i].prompt_logprobs is not None
            assert scored[i] == (works[i].prompt_ids[1:] if asked else ())
        assert got == wanted[: len(got)]


# -- preemption and the prefix cache ---------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_preempted_row_goes_on_through_its_cached_prefix_with_the_same_tokens(
    temperature: float,
) -> None:
    engine, runner = make_engine(max_rows=1, speculates=False)
    slow = work(prompt_of(30), 12, temperature, priority=Priority.BATCH)
    engine.submit("slow", slow)
    outs = [engine.step() for _ in range(5)]
    engine.submit("now", work(prompt_of(6, 1), 3, priority=Priority.INTERACTIVE))
    outs += [engine.step()]
    assert [i for i, _ in outs[-1]] == ["now"]
    assert engine.stats().preemptions == (0, 0, 1, 0)
    outs += [engine.step() for _ in range(3)]
    # 30 prompt tokens and 4 more were computed; 32 of them lie in full blocks.
    resumed = next(c for _, chunks in runner.steps[6:] for c in chunks if c.id == "slow")
    assert (resumed.start, resumed.end) == (32, 35)
    pieces = [p for out in outs for i, o in out if i == "slow" for p in o.pieces]  # type: ignore[union-attr]
    rest = drain(engine)["slow"]
    assert [p.token_id for p in pieces] + rest == expected_tokens(slow)


def test_a_prompt_that_gives_way_half_computed_does_not_start_from_nothing() -> None:
    engine, runner = make_engine(max_rows=1, max_step_tokens=10)
    engine.submit("slow", work(prompt_of(40), 2, priority=Priority.BATCH))
    for _ in range(3):
        engine.step()
    engine.submit("now", work(prompt_of(4, 1), 1, priority=Priority.INTERACTIVE))
    engine.step()
    engine.step()
    _, (chunk,) = runner.steps[-1]
    assert (chunk.id, chunk.start) == ("slow", 28)


def test_a_prompt_known_whole_still_computes_its_last_token() -> None:
    engine, runner = make_engine()
    first = work(prompt_of(16), 1)
    engine.submit("a", first)
    assert drain(engine)["a"] == expected_tokens(first)
    engine.submit("b", first)
    ((_, out),) = engine.step()
    assert isinstance(out, TokensOut)
    assert out.num_cached == 12
    assert [p.token_id for p in out.pieces] == expected_tokens(first)
    assert len(runner.steps[-1][1][0].token_ids) == 4
    stats = engine.stats()
    assert (stats.prefix_query_tokens, stats.prefix_hit_tokens) == (32, 12)


def test_prefixes_are_shared_by_neither_tenants_nor_adapters() -> None:
    engine, _ = make_engine()
    for key in ("x", "y"):
        engine._adapters.add(key)
    for number, fields in enumerate(
        [{}, {"cache_salt": b"s"}, {"adapter": "x"}, {"adapter": "y"}, {"adapter": "x"}]
    ):
        engine.submit(str(number), work(prompt_of(16), 1, **fields))
        ((_, out),) = engine.step()
        assert out.num_cached == (12 if number == 4 else 0)  # type: ignore[union-attr]


def test_answers_that_become_prompts_are_found_in_the_cache() -> None:
    engine, _ = make_engine(speculates=False)
    first = work(prompt_of(10), 9)
    engine.submit("a", first)
    answer = drain(engine)["a"]
    engine.submit("b", work((*first.prompt_ids, *answer, 1, 2), 1))
    ((_, out),) = engine.step()
    assert out.num_cached == 16  # type: ignore[union-attr]


def test_blocks_of_a_row_that_broke_are_found_by_nobody() -> None:
    engine, runner = make_engine()
    runner.broken = {"bad"}
    engine.submit("bad", work(prompt_of(16)))
    ((_, out),) = engine.step()
    assert isinstance(out, EngineError)
    good = work(prompt_of(16))
    engine.submit("good", good)
    assert drain(engine)["good"] == expected_tokens(good)


# -- reports ---------------------------------------------------------------------------------------


def test_the_prompts_log_probabilities_come_once_before_any_token() -> None:
    engine, _ = make_engine(max_step_tokens=7)
    asked = work(prompt_of(20), 3, prompt_logprobs=2)
    engine.submit("warm", work(prompt_of(20), 1))
    drain(engine)
    engine.submit("a", asked)
    outs = [out for _ in range(9) for _, out in engine.step()]
    assert all(isinstance(out, TokensOut) for out in outs)
    assert [len(out.prompt) for out in outs][:2] == [19, 0]  # type: ignore[union-attr]
    assert outs[0].num_cached == 0  # type: ignore[union-attr]
    for position, piece in enumerate(outs[0].prompt, start=1):  # type: ignore[union-attr]
        logits = logits_after(asked.prompt_ids[:position]).astype(np.float64)
        logprobs = logits - np.log(np.exp(logits).sum())
        assert piece.token_id == asked.prompt_ids[position]
        assert piece.logprob == pytest.approx(logprobs[piece.token_id], abs=1e-4)
        assert [token for token, _ in piece.top] == list(np.argsort(-logprobs)[:2])


def test_a_prompt_can_be_scored_without_generating() -> None:
    engine, _ = make_engine()
    engine.submit("a", work(prompt_of(9), 0, prompt_logprobs=0))
    ((_, out),) = engine.step()
    assert isinstance(out, TokensOut)
    assert (len(out.prompt), out.pieces, out.finish_reason) == (8, (), "length")
    assert not engine.has_work


def test_a_deadline_ends_a_row_at_the_next_step_and_frees_its_blocks() -> None:
    engine, runner = make_engine()
    engine.submit("late", work(prompt_of(9), 50, deadline_s=0.2))
    engine.submit("queued", work(prompt_of(9), 50, deadline_s=1e-9))
    outs = []
    while engine.has_work:
        outs += engine.step()
    assert isinstance(outs[-1][1], DeadlineExceededError)
    assert {i for i, out in outs if isinstance(out, DeadlineExceededError)} == {"late", "queued"}
    assert 0.2 <= runner.clock.now < 0.25
    assert engine.stats().kv_used_blocks == 0


def test_a_work_for_an_adapter_that_is_not_loaded_is_refused() -> None:
    engine, _ = make_engine()
    with pytest.raises(EngineError, match="adapter"):
        engine.submit("a", work((1, 2), adapter="unknown"))
    assert not engine.has_work


def test_stats_count_rows_blocks_and_tokens() -> None:
    engine, _ = make_engine(max_rows=2, speculates=False)
    for i in range(3):
        engine.submit(str(i), work(prompt_of(8, i), 5, priority=Priority(i)))
    for _ in range(3):
        engine.step()
    stats = engine.stats()
    assert (stats.running, stats.waiting) == ((1, 1, 0, 0), (0, 0, 1, 0))
    assert (stats.prompt_tokens, stats.generated_tokens) == (16, 6)
    assert (stats.kv_blocks, stats.kv_used_blocks) == (64, 6)


# -- fairness --------------------------------------------------------------------------------------


def test_tenants_are_served_by_virtual_time_and_the_shares_of_a_step_are_told() -> None:
    engine, _ = make_engine(max_rows=1)
    for i, tenant in enumerate("ab"):
        engine.submit(tenant, work(prompt_of(8, i), 2, tenant=tenant))
    engine.set_virtual_times({"a": 7.0, "b": 3.0})
    assert [i for i, _ in engine.step()] == ["b"]
    assert engine.last_shares() == {"b": 1.0}
    engine, _ = make_engine()
    for i, tenant in enumerate("aab"):
        engine.submit(str(i), work(prompt_of(8, i), 9, tenant=tenant))
    engine.step()
    assert engine.last_shares() == pytest.approx({"a": 2 / 3, "b": 1 / 3})


def test_urgency_is_the_time_to_the_next_token_or_deadline_that_is_due() -> None:
    engine, runner = make_engine(itl_target_s=0.2)
    assert engine.urgency(0.0).slack_s == float("inf")
    engine.submit("a", work(prompt_of(4), 9, priority=Priority.BATCH, tenant="x"))
    said = engine.urgency(0.0)
    assert (said.slack_s, said.priority, said.tenants) == (float("inf"), Priority.BATCH, ("x",))
    engine.submit("b", work(prompt_of(4), 9, priority=Priority.INTERACTIVE, tenant="y"))
    said = engine.urgency(0.1)
    assert (said.priority, said.tenants) == (Priority.INTERACTIVE, ("y",))
    assert said.slack_s == pytest.approx(0.4)
    engine.step()
    assert engine.urgency(runner.clock.now + 0.05).slack_s == pytest.approx(0.15)
    engine.submit("c", work(prompt_of(4), 9, priority=Priority.BACKGROUND, deadline_s=0.1))
    assert engine.urgency(runner.clock.now + 0.02).slack_s == pytest.approx(0.08)


def test_no_class_starves_behind_a_flood_of_better_ones() -> None:
    engine, _ = make_engine(max_rows=2, ageing_tokens=60)
    for priority in (Priority.STANDARD, Priority.BATCH, Priority.BACKGROUND):
        engine.submit(priority.name, work(prompt_of(30, priority), 8, priority=priority))
    ended = set()
    for step in range(400):
        engine.submit(str(step), work(prompt_of(6, step), 4, priority=Priority.INTERACTIVE))
        for i, out in engine.step():
            if isinstance(out, TokensOut) and out.finish_reason:
                ended.add(i)
    assert {"STANDARD", "BATCH", "BACKGROUND"} <= ended


# -- time ------------------------------------------------------------------------------------------

PRIOR = StepCost(step_s=0.1, prefill_token_s=0.01, decode_token_s=0.01, key_s=1e-5)
"""Several times too slow: what the engine learns is what counts."""


@dataclass(frozen=True)
class Played:
    """What interactive requests saw, and what was computed in all."""

    first_s: dict[str, float]
    alone_s: dict[str, float]
    gaps_s: Any
    busy_s: float


def play(per_second: float, until_s: float = 60) -> Played:
    """16 closed-loop batch streams and Poisson interactive requests, as bench/serve_mixed."""
    engine, runner = make_engine(num_blocks=4000, max_tokens=1000, prior=PRIOR, block_size=16)
    runner.checks = False
    generator, numbers = np.random.default_rng(3), itertools.count()
    at_s = generator.exponential(1 / per_second) if per_second else math.inf
    batch: set[str] = set()
    sent: dict[str, float] = {}
    alone: dict[str, float] = {}
    times: dict[str, list[float]] = {}
    while runner.clock.now < until_s:
        while len(batch) < 16:
            batch.add(name := f"batch-{next(numbers)}")
            prompt = prompt_of(128, next(numbers))
            engine.submit(name, work(prompt, 128, priority=Priority.BATCH))
        while at_s <= runner.clock.now:
            name, length = f"now-{next(numbers)}", int(generator.integers(20, 400))
            prompt = prompt_of(length, next(numbers))
            engine.submit(name, work(prompt, 26, priority=Priority.INTERACTIVE))
            sent[name], times[name] = at_s, []
            alone[name] = COST.step_s + COST.prefill_s(0, length)
            at_s += generator.exponential(1 / per_second)
        for name, out in engine.step():
            assert isinstance(out, TokensOut)
            if name in times:
                times[name] += [runner.clock.now] * bool(out.pieces)
            elif out.finish_reason:
                batch.discard(name)
    stats = engine.stats()
    decode_s = COST.decode_token_s + COST.step_s / 16
    busy_s = stats.prompt_tokens * COST.prefill_token_s + stats.generated_tokens * decode_s
    seen = {name: stamps for name, stamps in times.items() if stamps}
    gaps = [gap for stamps in seen.values() for gap in np.diff(stamps)]
    first = {name: stamps[0] - sent[name] for name, stamps in seen.items()}
    return Played(first, {name: alone[name] for name in first}, gaps, busy_s)


def test_beside_a_saturating_batch_interactive_rows_keep_their_pace() -> None:
    mixed = play(per_second=0.4)
    assert len(mixed.first_s) > 15
    assert np.percentile(mixed.gaps_s, 50) <= 0.1
    assert max(mixed.gaps_s) <= 0.2
    loaded, alone = (
        np.percentile(list(waits.values()), 95) for waits in (mixed.first_s, mixed.alone_s)
    )
    assert loaded <= 2 * alone
    assert mixed.busy_s >= 0.95 * play(per_second=0).busy_s
