"""Options of a recipe that do not go together are refused, and the message says which."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.training.tiny import make_recipe

from llmos.errors import RecipeError
from llmos.training.recipe import parse

PRIVATE = {
    "model": {"base": "tiny"},
    "tokenizer": {"kind": "base"},
    "labels": ["good", "bad"],
    "privacy": {"noise_multiplier": 1.0, "delta": 1e-5},
}

BERT, GPT = {"architecture": "bert"}, {"architecture": "gpt2"}


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("classify", PRIVATE | {"evaluate": {"splits": ["train"]}}, "without train"),
        ("classify", PRIVATE | {"micro_batch_size": 1}, "no micro_batch_size"),
        ("classify", {"processes": 2, "micro_batch_size": 1}, "micro_batch_size is for one"),
        ("answer", {"label_smoothing": 0.1}, "label_smoothing is for labels"),
        ("generate", {"objective": "elbo", "micro_batch_size": 1}, "needs whole batches"),
        ("generate", {"objective": "elbo", "processes": 2}, "needs whole batches"),
        ("classify", {"tokenizer": {"kind": "vectors"}}, "kind vectors needs model.vectors"),
        ("classify", {"model": BERT | {"freeze_vectors": True}}, "freeze_vectors needs"),
        ("classify", {"model": BERT | {"vectors": "v"}}, "need tokenizer.kind word or vectors"),
        ("generate", {"model": GPT | {"vectors": "v"}}, "is for tasks that read: classify"),
        (
            "classify",
            {"model": {"base": "b", "vectors": "v.txt"}, "tokenizer": {"kind": "base"}},
            "begins anew, without a model.base",
        ),
        ("generate", {"keep_at": [2, 4]}, "keep_at must be steps below"),
        ("generate", {"keep_at": [3, 2]}, "each above the one before"),
        ("generate", {"keep_at": [0]}, "keep_at"),
    ],
)
def test_options_that_do_not_go_together(task: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe(task, **changes))


@pytest.mark.parametrize(
    ("key", "value"), [("distill", {"teacher": "other"}), ("keep_at", [1])], ids=["distill", "keep"]
)
def test_what_counts_takes_no_teacher_and_has_no_steps_to_keep(key: str, value: Any) -> None:
    recipe = {
        "name": "n",
        "task": "generate",
        "model": {"architecture": "ngram"},
        "tokenizer": {"kind": "character"},
        "data": {"path": "starter:tales"},
        key: value,
    }
    with pytest.raises(RecipeError, match=f"takes no {key}"):
        parse(recipe)
