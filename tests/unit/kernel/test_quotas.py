"""The rules: nothing beyond a limit is granted, in any window, and a refusal says when to come."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import InvalidRequestError, QuotaExceededError, RateLimitError
from llmos.kernel import quotas
from llmos.kernel.quotas import DAY_S, Bucket, Limits, Used, check

NOON = 20_000 * DAY_S + DAY_S / 2


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("requests_per_s", 0),
        ("requests_per_s", -1.0),
        ("requests_per_s", math.nan),
        ("requests_per_s", math.inf),
        ("requests_per_s", "2"),
        ("concurrency", -1),
        ("concurrency", 1.5),
        ("concurrency", True),
        ("tokens_per_day", -1),
        ("tokens_per_day", 2**60),
        ("compute_s_per_day", -0.001),
        ("compute_s_per_day", math.nan),
        ("stored_bytes", -1),
        ("queue_depth", [1]),
    ],
)
def test_a_limit_below_zero_or_without_sense_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError, match=name) as refused:
        Limits(**{name: value})
    assert refused.value.param == name


def test_limits_of_another_version_are_read_by_the_names_that_are_known() -> None:
    assert Limits.of({"concurrency": 3, "from_the_future": 1}) == Limits(concurrency=3)


def test_without_limits_everything_is_granted() -> None:
    heavy = Used(Bucket(-5.0, NOON), 10**6, 10**12, 1e9)
    assert check(Limits(), heavy, NOON) is None


# -- requests a second -----------------------------------------------------------------------------


@given(
    rate=st.floats(1 / DAY_S, 50),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
)
def test_in_no_window_more_requests_begin_than_the_rate_and_one_burst_allow(
    rate: float, gaps: list[float]
) -> None:
    bucket, now = Bucket(), NOON
    limits, begun = Limits(requests_per_s=rate), list[float]()
    for gap in gaps:
        now += gap
        if check(limits, Used(bucket), now) is None:
            bucket = bucket.take(rate, now)
            begun.append(now)
    for first, start in enumerate(begun):
        for last in range(first, len(begun)):
            window_s = begun[last] - start
            assert last - first + 1 <= quotas.burst_of(rate) + rate * window_s + 1e-6


@given(rate=st.floats(1 / DAY_S, 50))
def test_who_comes_back_when_told_is_let_in_and_not_before(rate: float) -> None:
    bucket, now = Bucket(), NOON
    limits = Limits(requests_per_s=rate)
    while (verdict := quotas.requests(limits, bucket, now)) and verdict.is_granted:
        bucket = bucket.take(rate, now)
    assert verdict is not None
    assert verdict.retry_after_s is not None
    later = now + verdict.retry_after_s
    almost = quotas.requests(limits, bucket, now + verdict.retry_after_s * 0.99)
    at_last = quotas.requests(limits, bucket, later + 1e-5)
    assert almost is not None and not almost.is_granted
    assert at_last is not None and at_last.is_granted


def test_the_standing_of_a_rate_counts_down_from_the_burst_and_says_when_it_is_back() -> None:
    limits, bucket = Limits(requests_per_s=4), Bucket()
    bucket = bucket.take(4, NOON)
    verdict = quotas.requests(limits, bucket, NOON)
    assert verdict is not None
    assert (verdict.limit, verdict.remaining, verdict.reset_s) == (4, 3, 0.25)


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    bucket = Bucket(level=0.0, at=NOON)
    assert bucket.level_at(1.0, NOON - 3600) == 0.0


# -- a day -----------------------------------------------------------------------------------------


@given(
    limit=st.integers(0, 300),
    asks=st.lists(st.tuples(st.integers(1, 60), st.floats(0, DAY_S / 4)), max_size=40),
)
def test_in_no_utc_day_more_tokens_are_granted_than_the_limit(
    limit: int, asks: list[tuple[int, float]]
) -> None:
    limits, now = Limits(tokens_per_day=limit), NOON
    granted: dict[str, int] = {}
    for num_tokens, gap in asks:
        now += gap
        day = quotas.day_of(now)
        verdict = quotas.tokens(limits, granted.get(day, 0), now, num_tokens)
        assert verdict is not None
        if verdict.is_granted:
            granted[day] = granted.get(day, 0) + num_tokens
        else:
            assert now + (verdict.retry_after_s or 0) == quotas.day_ends_at(now)
    assert all(total <= limit for total in granted.values())


def test_days_begin_and_end_at_midnight_utc() -> None:
    assert quotas.day_of(NOON) == "2024-10-04"
    assert quotas.day_ends_at(NOON) - NOON == DAY_S / 2
    midnight = quotas.day_ends_at(NOON)
    assert quotas.day_of(midnight - 1e-3) == "2024-10-04"
    assert quotas.day_of(midnight) == "2024-10-05"
    assert quotas.day_ends_at(midnight) == midnight + DAY_S


def test_compute_is_granted_until_it_is_used_up() -> None:
    limits = Limits(compute_s_per_day=10)
    before, after = (quotas.compute(limits, used_s, NOON) for used_s in (9.99, 10.0))
    assert before is not None and before.is_granted
    assert after is not None and not after.is_granted


# -- one request -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "used", "name", "error"),
    [
        (Limits(concurrency=2), Used(num_live=2), "concurrency", RateLimitError),
        (Limits(concurrency=0), Used(), "concurrency", RateLimitError),
        (
            Limits(requests_per_s=2),
            Used(Bucket(0.5, NOON)),
            "requests_per_s",
            RateLimitError,
        ),
        (Limits(tokens_per_day=5), Used(tokens=5), "tokens_per_day", QuotaExceededError),
        (Limits(tokens_per_day=0), Used(), "tokens_per_day", QuotaExceededError),
        (
            Limits(compute_s_per_day=5),
            Used(compute_s=5.5),
            "compute_s_per_day",
            QuotaExceededError,
        ),
    ],
)
def test_a_refusal_names_its_limit_and_says_when_to_come_back(
    limits: Limits, used: Used, name: str, error: type[RateLimitError]
) -> None:
    verdict = check(limits, used, NOON)
    assert verdict is not None
    assert verdict.name == name
    refusal = quotas.refusal("alice", verdict)
    assert type(refusal) is error
    assert refusal.status == 429
    assert 1 <= refusal.retry_after_s <= DAY_S
    assert "alice" in refusal.message
    assert str(refusal.retry_after_s) in refusal.message


def test_one_below_every_limit_is_let_in() -> None:
    limits = Limits(requests_per_s=2, concurrency=2, tokens_per_day=5, compute_s_per_day=5)
    assert check(limits, Used(Bucket(1.0, NOON), 1, 4, 4.9), NOON) is None


@pytest.mark.parametrize(
    ("name", "advice"), [("stored_bytes", "remove something"), ("queue_depth", "cancel some")]
)
def test_what_no_clock_resets_says_what_else_to_do(name: str, advice: str) -> None:
    assert quotas.at_once(name, None, 10**9) is None
    full = quotas.at_once(name, 3, 3)
    assert full is not None
    assert (full.is_granted, full.remaining, full.reset_s) == (False, 0, math.inf)
    assert advice in quotas.refusal("alice", full).message
    room = quotas.at_once(name, 3, 2)
    assert room is not None and room.is_granted


def test_a_prompt_too_long_for_the_rest_of_the_day_is_told_how_much_that_is() -> None:
    verdict = quotas.tokens(Limits(tokens_per_day=100), 90, NOON, 20)
    assert verdict is not None
    assert "but 10, too few for this prompt" in quotas.refusal("alice", verdict).message
