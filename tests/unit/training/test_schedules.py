from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from llmos.training.recipe_sections import OptimizerSection
from llmos.training.schedules import learning_rate, num_no_better, plateaus, validation_losses

STEPS = 13


def section(**values: Any) -> OptimizerSection:
    given = {"learning_rate": 0.1, "min_learning_rate": 0.01, "warmup_steps": 3, **values}
    return OptimizerSection(**given)


def rates(**values: Any) -> list[float]:
    return [learning_rate(number, STEPS, section(**values)) for number in range(STEPS + 1)]


@pytest.mark.parametrize("name", ["constant", "linear", "cosine", "inverse_sqrt", "wsd", "plateau"])
def test_every_schedule_warms_up_to_the_peak(name: str) -> None:
    found = rates(schedule=name)
    assert found[:4] == pytest.approx([0.025, 0.05, 0.075, 0.1])
    assert all(a >= b for a, b in pairwise(found[3:]))
    assert min(found[3:]) > 0.0099


def test_a_cosine_is_half_way_down_in_the_middle_and_ends_at_the_minimum() -> None:
    found = rates()
    assert found[8] == pytest.approx((0.1 + 0.01) / 2)
    assert found[13] == pytest.approx(0.01)


def test_a_line_falls_by_as_much_at_each_step() -> None:
    found = rates(schedule="linear")
    assert [a - b for a, b in pairwise(found[3:])] == pytest.approx([0.009] * 10)


def test_a_constant_stays() -> None:
    assert set(rates(schedule="constant")[3:]) == {0.1}


def test_the_inverse_square_root_is_half_at_four_times_the_warm_up() -> None:
    assert rates(schedule="inverse_sqrt")[12] == pytest.approx(0.05)


def test_a_rate_that_warmed_up_stays_and_falls_at_the_end() -> None:
    found = rates(schedule="wsd", decay_steps=5)
    assert found[3:9] == [0.1] * 6
    assert [a - b for a, b in pairwise(found[8:])] == pytest.approx([0.018] * 5)
    assert rates(schedule="wsd")[11:] == pytest.approx([0.1, 0.1, 0.01])


def test_a_descent_longer_than_what_is_left_begins_with_it() -> None:
    found = rates(schedule="wsd", decay_steps=99)
    assert found[3] == pytest.approx(0.1)
    assert [a - b for a, b in pairwise(found[3:])] == pytest.approx([0.009] * 10)


def test_a_plateau_lowers_the_rate_each_time_patience_ends() -> None:
    losses = [3.0, 2.0, 2.0, 2.5, 2.1, 2.2, 1.0, 1.5]
    assert [plateaus(losses[:number], 2) for number in range(9)] == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    its = section(schedule="plateau", patience=2, factor=0.5)
    assert learning_rate(9, STEPS, its, losses[:4]) == pytest.approx(0.05)
    assert learning_rate(9, STEPS, its, losses) == pytest.approx(0.025)
    assert learning_rate(9, STEPS, its, [1.0] * 99) == pytest.approx(0.01), "not below the minimum"


def test_what_came_after_the_best_loss_is_counted() -> None:
    curve = [{"loss": 1.0}, *({"validation_loss": loss} for loss in (2.0, 1.0, 1.0, 3.0))]
    assert validation_losses(curve) == [2.0, 1.0, 1.0, 3.0]
    assert num_no_better(validation_losses(curve)) == 2
    assert num_no_better([]) == 0
