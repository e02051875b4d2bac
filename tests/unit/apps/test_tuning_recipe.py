"""What each "auto" of a fine-tuning stands for, and that what is made of it is a recipe."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.apps.tuning_files import Method, TuningFile
from llmos.apps.tuning_recipe import (
    Hyperparameters,
    auto_batch_size,
    auto_epochs,
    base_rate,
    epoch_steps,
    plan,
    recipe_of,
)
from llmos.library.versions import Version
from llmos.training.recipe import parse

FILE = TuningFile((0.1, 0.5), 120)


@pytest.mark.parametrize(
    ("examples", "epochs"),
    [(1, 25), (4, 25), (10, 10), (33, 3), (34, 3), (1000, 3), (10_000, 2), (100_000, 1)],
)
def test_few_examples_are_seen_more_often(examples: int, epochs: int) -> None:
    assert auto_epochs(examples) == epochs


@pytest.mark.parametrize(
    ("examples", "size"), [(1, 1), (3, 3), (10, 4), (2000, 4), (5000, 10), (100_000, 32)]
)
def test_batches_grow_with_the_examples(examples: int, size: int) -> None:
    assert auto_batch_size(examples) == size


def test_rates_fall_with_the_size_and_for_all_weights_and_preferences() -> None:
    assert base_rate("supervised", 10**9, is_adapter=True) == pytest.approx(2e-4)
    assert base_rate("supervised", 4 * 10**9, is_adapter=True) == pytest.approx(1e-4)
    assert base_rate("supervised", 10**5, is_adapter=True) == 5e-3, "no more"
    assert base_rate("supervised", 10**9, is_adapter=False) == pytest.approx(2e-5)
    assert base_rate("dpo", 10**9, is_adapter=True) == pytest.approx(2e-5)


@pytest.mark.parametrize(
    ("epochs", "examples", "size", "steps"),
    [
        (1, 10, 4, [3]),
        (3, 10, 4, [3, 5, 8]),
        (6, 48, 4, [48, 60, 72]),
        (25, 2, 4, [12, 13]),
        (3, 1, 1, [1, 2, 3]),
    ],
)
def test_the_last_epochs_end_at_steps(
    epochs: int, examples: int, size: int, steps: list[int]
) -> None:
    assert epoch_steps(epochs, examples, size) == steps


def base(dtype: str = "bfloat16") -> Version:
    manifest: dict[str, Any] = {"dtype": dtype, "license": "mit", "languages": ["en", "zh"]}
    facts: dict[str, Any] = {"id": 1, "kind": "model", "namespace": "", "name": "b", "number": 3}
    facts |= {"digest": "", "manifest": manifest, "files": {}, "owner": "a", "created_at": 0.0}
    return Version(**facts, job_id=None, aliases=(), inputs=())


@pytest.mark.parametrize("is_adapter", [True, False])
@pytest.mark.parametrize("method", ["supervised", "dpo"])
def test_what_is_planned_is_a_recipe_that_can_be_trained(method: Method, is_adapter: bool) -> None:
    wanted = Hyperparameters(n_epochs=2, batch_size=4, learning_rate_multiplier=0.5, beta=0.2)
    planned = plan(method, wanted, 10, 10**9, is_adapter=is_adapter)
    assert (planned.steps, planned.keep_at) == (5, (3,))
    recipe = parse(recipe_of(planned, base(), "mine", 9, ("a.jsonl", FILE), ("b.jsonl", FILE)))
    assert recipe.data_paths == ["a.jsonl", "b.jsonl"]
    assert (recipe.seed, recipe.max_tokens, recipe.model.base) == (9, 120, "b:3")
    assert (recipe.adapter is not None) == is_adapter
    assert (recipe.steps, recipe.keep_at) == (5, [3])
    assert recipe.save_dtype == ("float32" if is_adapter else "bfloat16")
    assert (recipe.dpo.beta if recipe.dpo else None) == (0.2 if method == "dpo" else None)
    assert recipe.optimizer.learning_rate == planned.learning_rate
    assert recipe.optimizer.learning_rate == 0.5 * base_rate(method, 10**9, is_adapter=is_adapter)
    assert set(planned.told()) == {
        "n_epochs",
        "batch_size",
        "learning_rate_multiplier",
        *(["beta"] if method == "dpo" else []),
    }
