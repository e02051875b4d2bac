"""A network that learned spans of texts is published as one that fills masks, and translators go
on from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.unit.training.tiny import MARIAN, make_job, make_recipe

from llmos.errors import RecipeError
from llmos.kernel.context import JobContext
from llmos.training import handler
from llmos.training.recipe import parse
from llmos.types import NewVersion

UNCHANGED = {"learning_rate": 1e-9, "weight_decay": 0.0}


def trained(
    directory: Path, recipe: dict[str, Any], **params: Any
) -> tuple[JobContext, NewVersion]:
    context, _ = make_job(directory, recipe, **params)
    (version,) = handler.run(context).artifacts
    return context, version


def given(version: NewVersion) -> dict[str, Any]:
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    return {"ref": "tiny:1", "files": files}


@pytest.fixture(scope="module")
def filler(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NewVersion]:
    home = tmp_path_factory.mktemp("filler")
    _, version = trained(home, make_recipe("spans", evaluate={"splits": ["validation"], "rows": 8}))
    return home, version


def test_it_fills_masks_and_says_how_well(filler: tuple[Path, NewVersion]) -> None:
    manifest = filler[1].manifest
    assert (manifest["task"], manifest["engine"]) == ("fill_mask", "pipelines")
    assert manifest["architecture"] == "T5ForConditionalGeneration"
    assert manifest["context_tokens"] == 48
    metrics = manifest["metrics"]
    assert metrics["perplexity"] > 1 and 0 <= metrics["accuracy"] <= 1
    assert metrics["validation"]["rows"] == 8


@pytest.mark.parametrize("task", ["translate", "spans"])
def test_another_goes_on_from_it(
    task: str, filler: tuple[Path, NewVersion], tmp_path: Path
) -> None:
    home, version = filler
    changes = {"model": {"base": "tiny"}, "tokenizer": {"kind": "base"}, "steps": 1}
    recipe = make_recipe(task, **changes, optimizer=UNCHANGED)
    context, _ = make_job(home, recipe, base=given(version))
    context.checkpoint_dir = tmp_path / "next"
    (then,) = handler.run(context).artifacts
    assert then.manifest["task"] == recipe["task"] and then.inputs[-1] == "tiny:1"
    assert then.files["tokenizer.json"] == version.files["tokenizer.json"]
    before, after = (
        load_file(context.blobs.path(one.files["model.safetensors"].digest))
        for one in (version, then)
    )
    assert before.keys() == after.keys()
    assert max((before[name] - after[name]).abs().max() for name in before) < 1e-6


def test_other_encoder_decoders_learn_spans_too(tmp_path: Path) -> None:
    model = {"architecture": "marian", "config": MARIAN}
    section = {"share": 0.5, "mean_length": 1.0}
    _, version = trained(tmp_path, make_recipe("spans", model=model, spans=section, max_tokens=24))
    assert version.manifest["task"] == "fill_mask"
    assert version.manifest["metrics"]["perplexity"] > 1


def test_a_base_without_sentinels_is_refused(tmp_path: Path) -> None:
    _, version = trained(tmp_path, make_recipe("translate"))
    recipe = make_recipe("spans", model={"base": "tiny"}, tokenizer={"kind": "base"})
    context, _ = make_job(tmp_path, recipe, base=given(version))
    context.checkpoint_dir = tmp_path / "next"
    with pytest.raises(RecipeError, match=r"needs sentinels .* the tokenizer of tiny lacks"):
        handler.run(context)


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("spans", {"spans": {"share": 0.6}}, r"spans\.share"),
        ("spans", {"packing": True}, "packing is for objective causal_lm"),
        ("fill_mask", {"spans": {"share": 0.3}}, "spans is for objective span_lm"),
        ("translate", {"objective": "span_lm"}, "task translate needs objective seq2seq"),
    ],
)
def test_what_does_not_fit_it_is_refused(task: str, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe(task, **changes))


def test_a_network_that_cannot_write_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe("spans", model={"architecture": "bert", "config": {}})
    context, _ = make_job(tmp_path, recipe)
    with pytest.raises(RecipeError, match="bert has no network for objective span_lm"):
        handler.run(context)
