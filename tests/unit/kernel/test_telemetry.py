from __future__ import annotations

import asyncio

import pytest

from llmos.errors import DeadlineExceededError
from llmos.kernel.telemetry import MAX_MODELS, Histogram, Meter, ModelTally, Tally, Telemetry
from llmos.types import EngineStats, GenerateWork, SamplingParams, TokenPiece, TokensOut

WORK = GenerateWork((1, 2, 3), SamplingParams())


def tokens(count: int) -> TokensOut:
    return TokensOut(tuple(map(TokenPiece, range(count))))


def test_a_value_is_counted_under_the_first_bound_that_holds_it() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 9.0):
        histogram.observe(value)
    assert histogram.counts == [2, 1, 1]
    assert histogram.total == 12.0


def test_the_first_token_is_timed_from_the_request_and_the_others_from_each_other() -> None:
    tally = Tally()
    meter = Meter(tally, WORK, begun_at=10.0)
    meter.took(TokensOut(num_cached=2), 10.5)
    meter.took(tokens(1), 11.0)
    meter.took(tokens(1), 11.25)
    meter.took(tokens(2), 11.75)
    meter.took(TokensOut(finish_reason="stop"), 12.0)
    assert (tally.ttft_s.total, sum(tally.ttft_s.counts)) == (1.0, 1)
    assert (tally.itl_s.total, sum(tally.itl_s.counts)) == (0.75, 3)
    assert (tally.prompt_tokens, tally.generated_tokens) == (3, 4)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (DeadlineExceededError(), "deadline_exceeded"),
        (asyncio.CancelledError(), "cancelled"),
        (GeneratorExit(), "cancelled"),
        (KeyError(), "internal_error"),
    ],
)
def test_a_request_counts_once_by_how_it_ended(error: BaseException | None, outcome: str) -> None:
    tally = Tally()
    try:
        with tally.request():
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    assert tally.outcomes == {outcome: 1}


def test_an_engines_counters_add_up_over_its_lives() -> None:
    tally = ModelTally()
    first = EngineStats(preemptions=(0, 1, 0, 0), prefix_hit_tokens=5)
    tally.absorb(EngineStats(), first)
    tally.absorb(first, EngineStats(preemptions=(0, 3, 0, 0), prefix_hit_tokens=6))
    tally.absorb(EngineStats(), EngineStats(preemptions=(1, 0, 0, 0)))
    assert tally.preemptions == [1, 3, 0, 0]
    assert tally.events["prefix_hit_tokens"] == 6


def test_no_more_models_are_remembered_than_the_limit() -> None:
    telemetry = Telemetry()
    for number in range(MAX_MODELS + 5):
        telemetry.of(f"m{number}")
    names = [name for name, _ in telemetry]
    assert (len(names), names[0]) == (MAX_MODELS, "m5")
