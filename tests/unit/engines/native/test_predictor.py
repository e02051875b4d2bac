"""The predictor of step times: what it learns, what it keeps, what it never says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.engines.native.predictor import FREE, Predictor, StepCost, StepLoad, prior_cost

TRUE = StepCost(step_s=0.02, prefill_token_s=0.002, decode_token_s=0.003, key_s=2e-6)
PRIOR = StepCost(step_s=0.3, prefill_token_s=0.005, decode_token_s=0.01, key_s=1e-6)


def loads(count: int, seed: int = 0) -> list[StepLoad]:
    generator = np.random.default_rng(seed)
    return [
        StepLoad(
            int(generator.integers(0, 200)) * (i % 4 == 0),
            int(generator.integers(1, 32)),
            float(generator.integers(0, 30_000)),
        )
        for i in range(count)
    ]


def errors(predictor: Predictor, true: StepCost, seed: int = 99) -> list[float]:
    return [abs(predictor.cost.seconds(load) / true.seconds(load) - 1) for load in loads(200, seed)]


@pytest.mark.parametrize("factor", [0.001, 1, 1000])
def test_after_some_steps_the_predictions_are_right_however_wrong_the_prior(factor: float) -> None:
    prior = StepCost(
        PRIOR.step_s * factor,
        PRIOR.prefill_token_s * factor,
        PRIOR.decode_token_s * factor,
        PRIOR.key_s * factor,
    )
    predictor = Predictor(prior)
    noise = np.random.default_rng(1)
    for load in loads(300):
        predictor.observe(load, TRUE.seconds(load) * noise.normal(1, 0.05))
    assert max(errors(predictor, TRUE)) < 0.1


def test_one_step_already_sets_the_scale() -> None:
    predictor = Predictor(prior_cost(500_000_000, 6144, "cpu"))
    load = StepLoad(100, 0, 5000)
    predictor.observe(load, 3.0)
    assert predictor.cost.seconds(load) == pytest.approx(3.0, rel=0.05)
    assert predictor.cost.seconds(StepLoad(200, 0, 20_000)) > 3.5


def test_what_prefill_costs_is_remembered_through_a_long_run_of_decoding() -> None:
    predictor = Predictor(PRIOR)
    for load in loads(300):
        predictor.observe(load, TRUE.seconds(load))
    for i in range(3000):
        load = StepLoad(0, 8, 100.0 * (i % 50))
        predictor.observe(load, TRUE.seconds(load))
    load = StepLoad(100, 8, 9000)
    assert predictor.cost.seconds(load) == pytest.approx(TRUE.seconds(load), rel=0.1)


def test_it_follows_a_machine_that_becomes_slower() -> None:
    predictor = Predictor(PRIOR)
    for slowness in (1, 3):
        for load in loads(400, slowness):
            predictor.observe(load, TRUE.seconds(load) * slowness)
    slower = StepCost(*(3 * x for x in (0.02, 0.002, 0.003, 2e-6)))
    assert max(errors(predictor, slower)) < 0.1


def test_one_step_that_was_held_up_changes_little() -> None:
    predictor = Predictor(PRIOR)
    for load in loads(100):
        predictor.observe(load, TRUE.seconds(load))
    predictor.observe(StepLoad(0, 8, 4000), 5.0)
    assert max(errors(predictor, TRUE)) < 0.1


@given(
    st.lists(
        st.tuples(
            st.integers(0, 4096), st.integers(0, 64), st.floats(0, 1e9), st.floats(1e-6, 100)
        ),
        max_size=30,
    )
)
def test_no_coefficient_is_ever_negative_or_not_finite(
    steps: list[tuple[int, int, float, float]],
) -> None:
    predictor = Predictor(PRIOR)
    for prefill, decode, keys, seconds in steps:
        predictor.observe(StepLoad(prefill, decode, keys), seconds)
        cost = predictor.cost
        for value in (cost.step_s, cost.prefill_token_s, cost.decode_token_s, cost.key_s):
            assert 0 <= value < math.inf


def test_times_that_cannot_be_are_ignored() -> None:
    predictor = Predictor(PRIOR)
    for seconds in (0.0, -1.0, math.nan, math.inf):
        predictor.observe(StepLoad(1, 1, 1), seconds)
    assert predictor.cost == PRIOR


@given(st.integers(0, 30_000), st.floats(1e-4, 10))
def test_a_chunk_as_long_as_fits_takes_just_the_time(num_cached: int, seconds: float) -> None:
    num_tokens = TRUE.prefill_tokens_within(num_cached, seconds)
    keys = num_tokens * (num_cached + num_tokens / 2)
    taken = TRUE.prefill_token_s * num_tokens + TRUE.key_s * keys
    assert taken == pytest.approx(seconds, rel=1e-6)


def test_what_costs_nothing_fits_without_end_but_never_into_no_time() -> None:
    assert FREE.prefill_tokens_within(10, 0.1) == math.inf
    assert TRUE.prefill_tokens_within(10, math.inf) == math.inf
    assert FREE.prefill_tokens_within(10, 0.0) == 0
    assert TRUE.prefill_tokens_within(10, -1.0) == 0
