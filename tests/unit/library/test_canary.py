"""A candidate is taken back when it does worse, and not before that can be said."""

from __future__ import annotations

import random

import pytest

from llmos.errors import InvalidRequestError
from llmos.library.canary import Rules, Sample, why_worse

RULES = Rules(min_requests=50, max_error_rate=0.02, max_latency_ratio=1.5)
GOOD = Sample(1000, 0, 1000, 1.0)


def test_too_few_requests_say_nothing() -> None:
    assert why_worse(Sample(49, 49, 49, 99.0), GOOD, RULES) == ""


def test_a_candidate_that_fails_more_often_is_worse() -> None:
    assert "10.0% of 100 requests failed" in why_worse(Sample(100, 10, 100, 1.0), GOOD, RULES)


def test_failing_as_often_as_the_other_version_is_not_worse() -> None:
    assert why_worse(Sample(100, 10, 100, 1.0), Sample(1000, 100, 1000, 1.0), RULES) == ""
    assert why_worse(Sample(100, 13, 100, 1.0), Sample(1000, 100, 1000, 1.0), RULES) == ""


def test_failing_less_than_is_allowed_is_not_worse() -> None:
    assert why_worse(Sample(10_000, 150, 10_000, 1.0), Sample(10_000, 0, 10_000, 1.0), RULES) == ""


def test_without_anything_to_compare_with_the_allowed_rate_counts_alone() -> None:
    nothing = Sample(0, 0, 0, None)
    assert "failed" in why_worse(Sample(60, 6, 60, 1.0), nothing, RULES)
    assert why_worse(Sample(60, 1, 60, 1.0), nothing, RULES) == ""


def test_a_candidate_that_always_fails_is_worse_than_one_that_always_fails_not_at_all() -> None:
    assert "100.0%" in why_worse(Sample(50, 50, 0, None), Sample(50, 0, 50, 1.0), RULES)
    assert why_worse(Sample(50, 50, 0, None), Sample(50, 50, 0, None), RULES) == ""


def test_a_slower_candidate_is_worse_if_both_were_seen_often_enough() -> None:
    assert "up to 1.60 s, the other version's 1.00 s" in why_worse(
        Sample(50, 0, 50, 1.6), GOOD, RULES
    )
    assert why_worse(Sample(50, 0, 50, 1.4), GOOD, RULES) == ""
    assert why_worse(Sample(50, 0, 50, 9.0), Sample(50, 0, 49, 1.0), RULES) == ""
    assert why_worse(Sample(50, 0, 49, 9.0), GOOD, RULES) == ""


def test_two_that_fail_equally_often_are_rarely_told_apart() -> None:
    draw = random.Random(0)
    alarms = sum(
        bool(why_worse(*(_sample(draw, 0.05) for _ in range(2)), RULES)) for _ in range(1000)
    )
    assert alarms <= 25  # one in a hundred is expected


def test_a_candidate_that_is_far_worse_is_found_out() -> None:
    draw = random.Random(0)
    found = sum(
        bool(why_worse(_sample(draw, 0.15), _sample(draw, 0.02), RULES)) for _ in range(200)
    )
    assert found >= 190


def _sample(draw: random.Random, rate: float) -> Sample:
    return Sample(200, sum(draw.random() < rate for _ in range(200)), 200, 1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("min_requests", 0), ("max_error_rate", -0.1), ("max_error_rate", 1.0),
     ("max_error_rate", float("nan")), ("max_latency_ratio", 0.9),
     ("max_latency_ratio", float("inf"))],
)  # fmt: skip
def test_rules_that_cannot_be_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        Rules(**{name: value})
    assert caught.value.param == name
