"""What a search tries: grids, draws, rungs, and trials' recipes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.unit.training.tiny import make_recipe

from llmos.errors import RecipeError
from llmos.training.search_space import (
    check_section,
    metric_of,
    ranked,
    rungs,
    trial_recipe,
)

RATE = "optimizer.learning_rate"
RANGE = {"low": 1e-4, "high": 1e-1, "log": True}


def test_a_grid_is_every_combination_in_order() -> None:
    section = check_section({"parameters": {RATE: [1e-3, 1e-2], "seed": [0, 1, 2]}})
    settings = section.settings()
    assert len(settings) == 6 and settings[0] == {RATE: 1e-3, "seed": 0}
    assert settings[5] == {RATE: 1e-2, "seed": 2}


def test_draws_hang_on_seed_trial_and_key_alone() -> None:
    given: dict[str, Any] = {"method": "random", "trials": 20, "seed": 5}
    both = check_section(given | {"parameters": {RATE: RANGE, "seed": [1, 2, 3]}}).settings()
    alone = check_section(given | {"trials": 7, "parameters": {RATE: RANGE}}).settings()
    assert [one[RATE] for one in alone] == [one[RATE] for one in both[:7]]
    assert (
        both == check_section(given | {"parameters": {RATE: RANGE, "seed": [1, 2, 3]}}).settings()
    )
    other = check_section(given | {"seed": 6, "parameters": {RATE: RANGE}}).settings()
    assert other[0] != alone[0]
    rates = [one[RATE] for one in both]
    assert all(1e-4 <= rate <= 1e-1 for rate in rates)
    assert 5 <= sum(rate < math.sqrt(1e-5) for rate in rates) <= 15, "even in the logarithm"
    whole = {"low": 1, "high": 3, "integer": True}
    sizes = check_section(given | {"parameters": {"batch_size": whole}}).settings()
    assert {one["batch_size"] for one in sizes} <= {1, 2, 3}


@pytest.mark.parametrize(
    ("trials", "eta", "expected"),
    [
        (9, 3, [(9, 1 / 9), (3, 1 / 3), (1, 1.0)]),
        (8, 2, [(8, 1 / 8), (4, 1 / 4), (2, 1 / 2), (1, 1.0)]),
        (10, 3, [(10, 1 / 9), (3, 1 / 3), (1, 1.0)]),
        (2, 3, [(2, 1.0)]),
    ],
)
def test_of_halving_one_in_eta_goes_on_with_eta_times_the_steps(
    trials: int, eta: int, expected: list[tuple[int, float]]
) -> None:
    section = check_section(
        {"method": "halving", "trials": trials, "eta": eta, "parameters": {RATE: RANGE}}
    )
    found = [(rung.num_trials, rung.share) for rung in rungs(section)]
    assert [count for count, _ in found] == [count for count, _ in expected]
    assert [share for _, share in found] == pytest.approx([share for _, share in expected])


def test_a_share_of_the_steps_has_a_share_of_the_warm_up() -> None:
    recipe = make_recipe("generate", steps=900, eval_every=300, checkpoint_every=50)
    recipe["optimizer"] = {"learning_rate": 1e-3, "warmup_steps": 90}
    settings = {RATE: 5e-3, "model.config.n_layer": 2}
    short = trial_recipe(recipe, settings, 1 / 9)
    assert (short.steps, short.eval_every, short.checkpoint_every) == (100, 100, 50)
    assert (short.optimizer.warmup_steps, short.optimizer.learning_rate) == (10, 5e-3)
    assert short.model.config["n_layer"] == 2
    assert recipe["optimizer"]["learning_rate"] == 1e-3, "what was given stays"
    assert trial_recipe(recipe, settings, 1.0).steps == 900


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("section", "says"),
    [
        (None, "search must be a mapping"),
        ({}, "parameters"),
        ({"parameters": {}}, "parameters"),
        ({"parameters": {RATE: []}}, "has no values"),
        ({"parameters": {RATE: RANGE}}, "a grid needs a list of values"),
        ({"parameters": {"seed": [1]}, "trials": 3}, "trials is for random and halving"),
        ({"parameters": {"seed": [1]}, "method": "random"}, "random needs trials"),
        ({"parameters": {"seed": list(range(20)), "steps": list(range(1, 21))}}, "400 trials"),
        (
            {"parameters": {RATE: {"low": 2.0, "high": 1.0}}, "method": "random", "trials": 2},
            "low must be below high",
        ),
        (
            {
                "parameters": {RATE: {"low": 0.0, "high": 1.0, "log": True}},
                "method": "random",
                "trials": 2,
            },
            "log needs a low above 0",
        ),
        ({"parameters": {"seed": [1]}, "methode": "grid"}, "methode"),
        ({"parameters": {f"model.config.{n}": [1] for n in range(33)}}, "at most 32 items"),
        ({"parameters": {".".join("a" * 9): [1]}}, "more than 8 parts"),
        ({"parameters": {"a" * 201: [1]}}, "at most 200 characters"),
        ({"parameters": {"a": ["x" * 20_000]}}, "over the limit of 16384"),
        ({"parameters": {"seed": [nested(100_000)]}}, "nested too deeply"),
        *(
            (
                {"parameters": {"seed": bad | {"integer": True}}, "method": "random", "trials": 2},
                why,
            )
            for bad, why in [
                ({"low": -1.7e308, "high": 1.7e308}, "parameters.seed.*low"),
                ({"low": 0.0, "high": math.inf}, "parameters.seed.*high"),
                ({"low": math.nan, "high": 1.0}, "parameters.seed.*low"),
                ({"low": 0, "high": 10**400}, "parameters.seed.*high"),
            ]
        ),
    ],
)
def test_a_search_that_cannot_be_is_refused(section: Any, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        check_section(section)


def test_a_key_that_the_recipe_does_not_have_is_refused() -> None:
    with pytest.raises(RecipeError, match="learning_rat"):
        trial_recipe(make_recipe("generate"), {"optimizer.learning_rat": 1}, 1.0)
    with pytest.raises(RecipeError, match="seed is a value, not a section"):
        trial_recipe(make_recipe("generate"), {"seed.x": 1}, 1.0)


def test_what_has_no_result_comes_last() -> None:
    values = [2.0, None, 1.0, float("nan"), 1.0]
    assert ranked(values, "min") == [2, 4, 0, 1, 3]
    assert ranked(values, "max") == [0, 2, 4, 1, 3]
    assert metric_of({"test": {"accuracy": 0.5}}, "test/accuracy") == 0.5
    assert metric_of({"test": {"accuracy": "x"}}, "test/accuracy") is None
    assert metric_of({}, "loss/x") is None
