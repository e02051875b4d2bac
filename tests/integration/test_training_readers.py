"""Encoders' objectives resume bit for bit, and their heads go on from a masked language model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError, DataError, RecipeError
from llmos.kernel.context import JobContext
from llmos.training import handler
from llmos.training.recipe import parse
from llmos.types import NewVersion

READERS = ("fill_mask", "spans", "answer", "embed", "rate")


def leave_in_step_4(context: JobContext) -> None:
    num_batches, wait = 0, context.wait_while_paused

    def leave() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 4:
            context.leave()
        wait()

    context.wait_while_paused = leave  # type: ignore[method-assign]


def trained(
    directory: Path, recipe: dict[str, Any], **params: Any
) -> tuple[JobContext, NewVersion]:
    context, _ = make_job(directory, recipe, **params)
    (version,) = handler.run(context).artifacts
    return context, version


@pytest.mark.parametrize("task", READERS)
def test_an_encoder_s_training_goes_on_to_the_very_weights(task: str, tmp_path: Path) -> None:
    """With dropout, and masks that are drawn anew at each step."""
    recipe = make_recipe(task, steps=8, checkpoint_every=8, eval_every=1, publish="best")
    trained(tmp_path / "whole", recipe)
    context, _ = make_job(tmp_path / "left", recipe)
    leave_in_step_4(context)
    with pytest.raises(CancelledError):
        handler.run(context)
    trained(tmp_path / "left", recipe)
    for name in ("weights", "optimizer", "best"):
        path = Path("checkpoint", "checkpoints", "step-00000008", f"{name}.safetensors")
        whole, left = (tmp_path / run / path for run in ("whole", "left"))
        assert whole.read_bytes() == left.read_bytes()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NewVersion]:
    home = tmp_path_factory.mktemp("encoder")
    _, version = trained(home, make_recipe("fill_mask"))
    return home, version


@pytest.mark.parametrize("task", ["fill_mask", "answer", "embed", "rate", "classify", "entities"])
def test_any_head_goes_on_from_a_masked_language_model(
    task: str, encoder: tuple[Path, NewVersion], tmp_path: Path
) -> None:
    home, version = encoder
    files = {name: {"digest": r.digest, "size": r.size} for name, r in version.files.items()}
    changes = {"model": {"base": "tiny"}, "tokenizer": {"kind": "base"}, "steps": 1}
    optimizer = {"learning_rate": 1e-9, "weight_decay": 0.0}
    recipe = make_recipe(task, **changes, optimizer=optimizer)
    context, _ = make_job(home, recipe, base={"ref": "tiny:1", "files": files})
    context.checkpoint_dir = tmp_path / "next"
    (then,) = handler.run(context).artifacts
    assert then.manifest["task"] == task and then.inputs[-1] == "tiny:1"
    assert then.files["tokenizer.json"] == version.files["tokenizer.json"]
    before, after = (
        load_file(context.blobs.path(one.files["model.safetensors"].digest))
        for one in (version, then)
    )
    layer = "encoder.layer.0.attention.self.query.weight"
    ours = next(tensor for name, tensor in after.items() if name.endswith(layer))
    assert (ours - before[f"bert.{layer}"]).abs().max() < 1e-6, "it began with the encoder's"


def test_a_masked_language_model_says_how_well_it_fills(
    encoder: tuple[Path, NewVersion],
) -> None:
    manifest = encoder[1].manifest
    assert (manifest["task"], manifest["engine"]) == ("fill_mask", "pipelines")
    assert manifest["special_tokens"]["mask"] == "[MASK]"
    metrics = manifest["metrics"]
    assert metrics["perplexity"] > 1 and 0 <= metrics["accuracy"] <= 1


def test_a_running_text_is_read_by_paragraphs(tmp_path: Path) -> None:
    context, version = trained(tmp_path, make_recipe("fill_mask", data={"path": "starter:tales"}))
    assert version.manifest["metrics"]["perplexity"] > 1
    lengths = json.loads((context.checkpoint_dir / "prepared" / "labels.json").read_text())
    assert lengths is None


def test_an_embedder_is_one_that_sentence_transformers_would_load(tmp_path: Path) -> None:
    section = {"pooling": "cls", "temperature": 0.1}
    recipe = make_recipe("embed", contrastive=section, evaluate={"splits": ["validation"]})
    _, version = trained(tmp_path, recipe)
    assert version.manifest["embedding"]["pooling"] == "cls"
    assert version.manifest["embedding"]["normalize"] is True
    assert version.manifest["context_tokens"] == recipe["max_tokens"]
    assert {"modules.json", "1_Pooling--config.json"} <= set(version.files)
    assert 0 < version.manifest["metrics"]["validation"]["mrr"] <= 1


def test_an_answer_that_is_not_where_it_should_be_is_refused(tmp_path: Path) -> None:
    recipe = make_recipe("answer", data={"path": "asked.jsonl"})
    context, _ = make_job(tmp_path, recipe)
    row = {"question": "Who?", "context": "Alice sings.", "answer": "Alice", "start": 3}
    digest = context.blobs.put_bytes(json.dumps(row).encode()).digest
    context, _ = make_job(tmp_path, recipe, data={"asked.jsonl": digest})
    with pytest.raises(DataError, match="the answer 'Alice' is not at 3"):
        handler.run(context)


@pytest.mark.parametrize(
    ("task", "changes", "says"),
    [
        ("rate", {"label_smoothing": 0.1}, "label_smoothing"),
        ("rate", {"robust": {"noise": 1.0}}, "robust"),
        ("classify", {"contrastive": {"temperature": 0.1}}, "contrastive is for task embed"),
        ("answer", {"objective": "causal_lm"}, "needs objective question_answering"),
    ],
)
def test_what_does_not_fit_an_objective_is_refused(
    task: str, changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe(task, **changes))
