"""What a step takes: what was measured, and sums that come out even."""

from __future__ import annotations

import pytest

from llmos.engines.native.predictor import StepLoad, chunk_keys
from llmos.simulate.clock import seconds
from llmos.simulate.steptimes import FACTS, MEASURED, Fact, fit


def test_the_fit_tells_every_decode_step_and_long_prompt_that_was_measured() -> None:
    for fact in FACTS:
        if fact.load.decode_tokens or fact.load.prefill_tokens > 128:
            assert MEASURED.cost.seconds(fact.load) == pytest.approx(fact.seconds, rel=0.08)


def test_every_fact_says_where_it_is_from() -> None:
    assert all("bench/results/" in fact.source for fact in FACTS)


def test_a_fit_finds_the_coefficients_that_made_the_facts() -> None:
    loads = [StepLoad(0, n, n * keys) for n in (1, 8, 32) for keys in (100, 2000)]
    loads += [StepLoad(n, 0, chunk_keys(0, n)) for n in (50, 500, 2000)]
    true = MEASURED.cost
    found = fit([Fact(load, true.seconds(load), "made up") for load in loads])
    for load in loads:
        assert found.seconds(load) == pytest.approx(true.seconds(load), rel=0.02)


def test_times_are_those_that_the_batcher_predicts() -> None:
    cost = MEASURED.cost
    assert seconds(MEASURED.prefill(300, 200)) == pytest.approx(cost.prefill_s(300, 200))
    assert seconds(MEASURED.decode(1000)) == pytest.approx(cost.prefill_s(999, 1), rel=0.3)
    assert seconds(MEASURED.decode(1000)) == pytest.approx(
        cost.marginal_s(StepLoad(0, 1, chunk_keys(999, 1)))
    )


def test_tokens_in_a_row_take_what_they_take_one_by_one() -> None:
    one_by_one = sum(MEASURED.decode(500 + n) for n in range(77))
    assert MEASURED.decode(500, 77) == one_by_one
    assert MEASURED.decode(501) - MEASURED.decode(500) == MEASURED.decode_growth_ps


def test_rows_together_take_what_they_take_apart() -> None:
    apart = sum(MEASURED.decode(tokens, 9) for tokens in (10, 200, 3000))
    assert MEASURED.decode_all(3, 3210, 9) == apart


def test_a_prompt_in_chunks_takes_what_it_takes_at_once() -> None:
    parts = MEASURED.prefill(0, 300) + MEASURED.prefill(300, 41) + MEASURED.prefill(341, 1)
    assert parts == MEASURED.prefill(0, 342)
