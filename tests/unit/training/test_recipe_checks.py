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
        ("rate", {"labels": ["good", "bad"]}, "labels is for tasks classify, entities, parse, not"),
        ("classify", {"translation": {"pairs": []}}, "translation is for task translate"),
        (
            "generate",
            {"model": {"base": "b", "config": {"n_layer": 2}}, "tokenizer": {"kind": "base"}},
            "model.config.n_layer cannot be changed of a model.base, only its dropout can",
        ),
        ("generate", {"keep_at": [2, 4]}, "keep_at must be steps below"),
        ("generate", {"keep_at": [3, 2]}, "each above the one before"),
        ("generate", {"keep_at": [0]}, "keep_at"),
    ],
)
def test_options_that_do_not_go_together(task: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe(task, **changes))


BASED = {"model": {"base": "tiny"}, "tokenizer": {"kind": "base"}}
OLD = {"path": "starter:chat", "rows": 20}
SAID = {"path": "feedback:tiny"}


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("chat", {"replay": OLD}, "replay is of what a model.base learned"),
        ("chat", BASED | {"replay": OLD}, "replay.path is the same as data.path"),
        ("chat", BASED | {"replay": {"path": "feedback:tiny"}}, "feedback is new"),
        ("chat", BASED | {"data": SAID, "replay": OLD, "packing": True}, "without packing"),
        ("chat", BASED | {"data": SAID, "replay": OLD | {"share": 0.05}}, "without old or without"),
        ("chat", BASED | {"data": SAID, "replay": OLD | {"share": 1}}, "replay.share is 1"),
        ("chat", BASED | {"data": SAID, "online": {}}, "online needs"),
        ("chat", BASED | {"replay": OLD | {"path": "x"}, "online": {}}, "online needs"),
        ("chat", BASED | {"data": {"path": "feedback:"}}, "whose feedback"),
        ("classify", BASED | {"data": SAID}, "feedback teaches chat and generate"),
        ("classify", BASED | {"replay": OLD | {"path": "x"}}, "replay needs labels"),
        (
            "chat",
            BASED | {"data": SAID | {"rows": 9}, "replay": OLD, "online": {}},
            "leave data.rows out",
        ),
        (
            "chat",
            BASED | {"data": SAID, "replay": OLD, "online": {"min_rows": 10_000}},
            "min_rows 10000 are never taken",
        ),
        (
            "chat",
            BASED | {"data": SAID, "replay": OLD, "online": {}, "adapter": {}},
            "online updates a model whole",
        ),
        ("chat", BASED | {"data": SAID, "replay": OLD | {"validation_path": "v"}}, "is for a file"),
    ],
)
def test_what_goes_on_needs_what_it_goes_on_from(
    task: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe(task, **changes))


def test_a_recipe_reads_its_old_files_beside_its_new_ones_each_once() -> None:
    files = {"path": "new.jsonl", "validation_path": "held.jsonl"}
    replay = {"path": "old.jsonl", "validation_path": "held.jsonl"}
    recipe = parse(make_recipe("chat", **BASED, data=files, replay=replay))
    assert recipe.data_paths == ["new.jsonl", "held.jsonl", "old.jsonl"]


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
