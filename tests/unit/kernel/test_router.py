"""Choosing a replica: constraints, the trade, chance, and what is told of it."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, overload

import pytest

from llmos.errors import NoModelFitsError, OutOfMemoryError
from llmos.kernel.router import PRIOR_QUALITY, TRADES, Asked, Replica, assess, route, split
from llmos.types import Priority

ASKED = Asked(prompt_tokens=100, output_tokens=100)


def replica(key: str, **facts: Any) -> Replica:
    values = {"prefill_tokens_per_s": 1000.0, "decode_tokens_per_s": 100.0, "quality": 0.8}
    return Replica(key, **{"model": key, **values, **facts})


def sure(key: str, **facts: Any) -> Replica:
    """A replica whose draw is as good as fixed."""
    return replica(key, **{"successes": 1e9, "failures": 1e9, **facts})


def chosen(asked: Asked, *replicas: Replica, seed: int = 0) -> str:
    return route(asked, replicas, random.Random(seed)).replica.key


def test_latency_is_load_queue_reading_and_writing_and_cost_is_per_token() -> None:
    one = replica("a", load_s=2.0, queue_s=0.5, cost_per_1k_tokens=5.0)
    verdict = assess(ASKED, one)
    assert verdict.latency_ms == pytest.approx(1000 * (2.0 + 0.5 + 0.1 + 1.0))
    assert verdict.cost == pytest.approx(1.0)
    assert (verdict.quality, verdict.excluded) == (0.8, None)


@pytest.mark.parametrize(
    ("worse", "better"),
    [
        ({}, {"quality": 0.9}),
        ({}, {"decode_tokens_per_s": 200.0}),
        ({}, {"prefill_tokens_per_s": 2000.0}),
        ({"queue_s": 3.0}, {}),
        ({"load_s": 3.0}, {}),
        ({"cost_per_1k_tokens": 100.0}, {"cost_per_1k_tokens": 50.0}),
        ({}, {"successes": 3e9}),
    ],
)
def test_the_better_one_is_chosen_where_the_rest_is_the_same(
    worse: dict[str, float], better: dict[str, float]
) -> None:
    ones = sure("a-worse", **worse), sure("better", **better)
    assert chosen(ASKED, *ones) == chosen(ASKED, *ones[::-1]) == "better"


def test_patience_and_budget_halve_a_replicas_worth() -> None:
    for priority, (patience_s, budget) in TRADES.items():
        asked = Asked(0, 1000, priority)
        quick = sure("q", decode_tokens_per_s=1e12, quality=1.0)
        slow = dataclasses.replace(quick, key="s", model="s", queue_s=patience_s)
        dear = dataclasses.replace(quick, key="d", model="d", cost_per_1k_tokens=budget)
        scores = [one.score for one in route(asked, [quick, slow, dear], random.Random(1)).verdicts]
        assert scores[1] / scores[0] == pytest.approx(0.5, rel=1e-3)
        assert scores[2] / scores[0] == pytest.approx(0.5, rel=1e-3)


def test_who_waits_gets_the_quick_one_and_who_comes_back_the_good_one() -> None:
    quick = sure("quick", quality=0.6, queue_s=0.1)
    good = sure("good", quality=0.9, queue_s=20.0)
    asked = {at: dataclasses.replace(ASKED, priority=at) for at in Priority}
    assert chosen(asked[Priority.INTERACTIVE], quick, good) == "quick"
    assert chosen(asked[Priority.BATCH], quick, good) == "good"


def test_ties_go_to_the_smaller_key_wherever_it_stands() -> None:
    twins = [replica(key, model="same") for key in ("b", "a", "c")]
    for order in (twins, twins[::-1]):
        assert chosen(ASKED, *order) == "a"


def test_an_unknown_quality_counts_as_the_prior_and_meets_no_bound_above_zero() -> None:
    unknown = sure("u", quality=None)
    assert assess(ASKED, unknown).quality == PRIOR_QUALITY
    assert chosen(ASKED, unknown, sure("k", quality=PRIOR_QUALITY - 0.1)) == "u"
    assert chosen(ASKED, unknown, sure("k", quality=PRIOR_QUALITY + 0.1)) == "k"
    small = sure("small", quality=None, prior_quality=0.3)
    assert chosen(ASKED, unknown, small) == "u"
    bounded = dataclasses.replace(ASKED, min_quality=0.1)
    assert assess(bounded, unknown).excluded == "min_quality"
    assert assess(dataclasses.replace(ASKED, min_quality=0.0), unknown).excluded is None


@pytest.mark.parametrize(
    ("asked", "facts", "param"),
    [
        ({"max_latency_ms": 1099.0}, {}, "max_latency_ms"),
        ({"min_quality": 0.81}, {}, "min_quality"),
        ({"max_cost": 0.9}, {"cost_per_1k_tokens": 5.0}, "max_cost"),
        ({}, {"weight": 0.0}, "weight"),
        ({}, {"memory_bytes": 11, "room_bytes": 10}, "memory"),
    ],
)
def test_constraints_come_first_and_the_error_names_what_excluded_all(
    asked: dict[str, float], facts: dict[str, Any], param: str
) -> None:
    bounded = dataclasses.replace(ASKED, **asked)
    out, fitting = replica("a", **facts), replica("b", quality=0.9, decode_tokens_per_s=1e3)
    choice = route(bounded, [out, fitting], random.Random(0))
    assert choice.replica is fitting
    assert [one.excluded for one in choice.verdicts] == [param, None]
    for decide in (route, split):
        with pytest.raises((NoModelFitsError, OutOfMemoryError)) as refused:
            decide(bounded, [out, dataclasses.replace(out, key="c")], random.Random(0))
        error = refused.value
        if param == "memory":
            assert (error.status, error.code) == (503, "out_of_memory")
        else:
            wanted = "model" if param == "weight" else param
            assert (error.status, error.code, error.param) == (400, "no_model_fits", wanted)


def test_exactly_at_the_bounds_is_good_enough() -> None:
    one = replica("a", cost_per_1k_tokens=5.0, memory_bytes=10, room_bytes=10)
    verdict = assess(ASKED, one)
    at = Asked(100, 100, Priority.STANDARD, verdict.latency_ms, 0.8, verdict.cost)
    assert chosen(at, one) == "a"


def test_the_error_says_how_near_the_nearest_comes() -> None:
    bounded = dataclasses.replace(ASKED, max_latency_ms=10.0)
    ones = [replica("a"), replica("b", queue_s=1.0), replica("c", weight=0.0, queue_s=-5.0)]
    with pytest.raises(NoModelFitsError, match="fastest would take about 1100 ms"):
        route(bounded, ones, random.Random(0))
    wanted = dataclasses.replace(ASKED, min_quality=0.85)
    ones = [replica("a", quality=0.0), replica("b", quality=None)]
    with pytest.raises(NoModelFitsError, match="the best that was measured has 0; relax it"):
        route(wanted, ones, random.Random(0))
    with pytest.raises(NoModelFitsError, match="none was measured, which `llmos evaluate` does"):
        route(wanted, ones[1:], random.Random(0))
    ones = [replica("a"), replica("b", queue_s=1.0), replica("c", weight=0.0, queue_s=-5.0)]
    with pytest.raises(NoModelFitsError, match="max_latency_ms of 10 excludes 2 of 3 models"):
        route(bounded, ones, random.Random(0))


def test_nothing_to_choose_from_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(NoModelFitsError) as refused:
        route(ASKED, [], random.Random(0))
    assert refused.value.param == "model"


def test_one_that_never_gets_done_is_excluded_by_any_latency_and_else_worth_nothing() -> None:
    never = replica("a", decode_tokens_per_s=0.0)
    assert math.isinf(assess(ASKED, never).latency_ms)
    assert chosen(ASKED, never, replica("b", quality=0.01)) == "b"
    assert assess(dataclasses.replace(ASKED, max_latency_ms=1e9), never).excluded


def test_replicas_of_one_model_share_a_draw_so_the_nearest_of_them_is_chosen() -> None:
    ones = [
        replica(f"m@{at}", model="m", queue_s=float(at), successes=1.0, failures=1.0)
        for at in range(8)
    ]
    assert {chosen(ASKED, *ones, seed=seed) for seed in range(50)} == {"m@0"}


def test_the_same_chance_gives_the_same_choice() -> None:
    ones = [replica(key, successes=3.0, failures=3.0) for key in "abcdefgh"]
    first = [chosen(ASKED, *ones, seed=seed) for seed in range(20)]
    assert first == [chosen(ASKED, *ones, seed=seed) for seed in range(20)]
    assert len(set(first)) > 3


def test_what_failed_is_rarely_tried_and_what_is_unknown_often() -> None:
    failed = replica("failed", successes=2.0, failures=40.0)
    known = replica("known", successes=40.0, failures=10.0)
    unknown = replica("unknown")
    counts = Counter(chosen(ASKED, failed, known, unknown, seed=seed) for seed in range(400))
    assert counts["failed"] < 4
    assert 40 < counts["unknown"] < 200
    assert counts["known"] > 200


def test_a_split_follows_the_weights() -> None:
    ones = [replica("a", weight=9.0), replica("b", weight=1.0), replica("c", weight=0.0)]
    rng = random.Random(3)
    counts = Counter(split(ASKED, ones, rng).replica.key for _ in range(4000))
    assert counts["c"] == 0
    # three standard deviations of a binomial
    assert abs(counts["b"] - 400) < 3 * math.sqrt(4000 * 0.1 * 0.9)


def test_a_split_gives_the_share_of_who_is_excluded_to_the_others() -> None:
    ones = [replica("a", weight=9.0, queue_s=60.0), replica("b"), replica("c")]
    bounded = dataclasses.replace(ASKED, max_latency_ms=5000.0)
    rng = random.Random(3)
    counts = Counter(split(bounded, ones, rng).replica.key for _ in range(1000))
    assert counts["a"] == 0
    assert abs(counts["b"] - 500) < 3 * math.sqrt(250)


def test_the_ranking_begins_with_the_choice_and_leaves_out_the_excluded() -> None:
    ones = [replica("a"), replica("b", weight=0.0), replica("c"), replica("d")]
    choice = route(ASKED, ones, random.Random(5))
    ranked = choice.ranked()
    assert ranked[0] == choice.replica.key
    assert sorted(ranked) == ["a", "c", "d"]
    scores = {one.key: one.score for one in choice.verdicts}
    assert [scores[key] for key in ranked] == sorted((scores[key] for key in ranked), reverse=True)


class _Counting(Sequence[Replica]):
    """Counts how often an element is looked at."""

    def __init__(self, replicas: list[Replica]) -> None:
        self._replicas = replicas
        self.num_looks = 0

    def __len__(self) -> int:
        return len(self._replicas)

    @overload
    def __getitem__(self, at: int) -> Replica: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Replica]: ...
    def __getitem__(self, at: int | slice) -> Replica | Sequence[Replica]:
        self.num_looks += 1
        return self._replicas[at]

    def __iter__(self) -> Iterator[Replica]:
        for one in self._replicas:
            self.num_looks += 1
            yield one


class _CountedDraws(random.Random):
    num_draws = 0

    def betavariate(self, alpha: float, beta: float) -> float:
        self.num_draws += 1
        return super().betavariate(alpha, beta)


@pytest.mark.parametrize("count", [8, 64, 512])
def test_every_replica_is_looked_at_once_and_every_model_drawn_once(count: int) -> None:
    ones = _Counting([replica(f"m{at % 4}@{at}", model=f"m{at % 4}") for at in range(count)])
    rng = _CountedDraws(0)
    choice = route(ASKED, ones, rng)
    assert (ones.num_looks, rng.num_draws, len(choice.verdicts)) == (count, 4, count)
    ones.num_looks = 0
    split(ASKED, ones, rng)
    assert ones.num_looks == count
