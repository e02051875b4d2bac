"""One encoder learns several tasks: exactly, and each as served as if it were the only one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.integration.test_training_readers import leave_in_step_4, trained
from tests.unit.training.tiny import make_job, make_recipe
from transformers import AutoModel

from llmos.errors import CancelledError, RecipeError
from llmos.kernel.protocol import JobMetric
from llmos.library.manifest import build_manifest, parse_manifest
from llmos.training import handler
from llmos.training.trainer import DivergedError
from llmos.types import NewVersion

TASKS = ["classify", "entities", "rate", "answer", "fill_mask", "embed"]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, NewVersion]:
    home = tmp_path_factory.mktemp("several")
    splits = ["test_combinations", "test_templates"]
    recipe = make_recipe("multitask", steps=12, evaluate={"splits": splits, "rows": 8})
    _, version = trained(home, recipe)
    return home, version


def test_a_mixture_goes_on_to_the_very_weights(tmp_path: Path) -> None:
    """With dropout, and masks that are drawn anew at each step."""
    changes: dict[str, Any] = {"steps": 12, "checkpoint_every": 12, "eval_every": 3}
    recipe = make_recipe("multitask", publish="best", accumulate=2, **changes)
    trained(tmp_path / "whole", recipe)
    context, _ = make_job(tmp_path / "left", recipe)
    leave_in_step_4(context)
    with pytest.raises(CancelledError):
        handler.run(context)
    trained(tmp_path / "left", recipe)
    for name in ("weights", "optimizer", "best"):
        path = Path("checkpoint", "checkpoints", "step-00000012", f"{name}.safetensors")
        whole, left = (tmp_path / run / path for run in ("whole", "left"))
        assert whole.read_bytes() == left.read_bytes()


def test_one_version_says_all_its_tasks(several: tuple[Path, NewVersion]) -> None:
    _, version = several
    manifest = parse_manifest(version.manifest)
    assert (manifest.task, manifest.engine) == ("classify", "pipelines")
    assert [*(manifest.heads or {})] == TASKS
    assert manifest.labels == ["negative", "neutral", "positive"]
    assert manifest.special_tokens["mask"] == "[MASK]"
    assert manifest.embedding is not None and manifest.embedding["pooling"] == "mean"
    assert manifest.parity is not None and [*manifest.parity] == TASKS
    assert all(report["rows"] > 0 for report in manifest.parity.values())
    assert version.inputs[:2] == ("starter:sentiment", "starter:entities")
    tagger = manifest.made_for({"entities"})
    assert tagger is not None and tagger.labels is not None and "B-PERSON" in tagger.labels
    assert {*tagger.metrics} == {"validation", "test_combinations", "test_templates"}
    assert 0 <= tagger.metrics["test_templates"]["f1"] <= 1
    rater = manifest.made_for({"rate"})
    assert rater is not None and rater.labels is None and "mse" in rater.metrics["test_templates"]
    assert manifest.made_for({"chat"}) is None
    losses = [manifest.metrics[f"{task}/validation"]["loss"] for task in TASKS]
    assert manifest.metrics["validation_loss"] == pytest.approx(sum(losses) / len(losses))


def test_its_files_alone_say_as_much(several: tuple[Path, NewVersion], tmp_path: Path) -> None:
    home, version = several
    context, _ = make_job(home, make_recipe("multitask"))
    for name, ref in version.files.items():
        (tmp_path / name).write_bytes(context.blobs.path(ref.digest).read_bytes())
    read = build_manifest(tmp_path)
    assert (read.task, read.heads) == ("classify", version.manifest["heads"])
    assert read.labels == version.manifest["labels"]
    assert AutoModel.from_pretrained(tmp_path).config.model_type == "bert"


def test_validations_tell_each_task_and_all_together(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, make_recipe("multitask", keep_at=[2]))
    kept = handler.run(context).artifacts
    assert [[*version.manifest["heads"]] for version in kept] == [TASKS, TASKS]
    assert [version.manifest["source"]["published_step"] for version in kept] == [2, 4]
    points = [m.values for m in sent if isinstance(m, JobMetric)]
    (*_, last) = [point for point in points if "validation_loss" in point]
    losses = [last[f"validation_{task}_loss"] for task in TASKS]
    assert last["validation_loss"] == pytest.approx(sum(losses) / len(losses))
    assert "validation_fill_mask_accuracy" in last


@pytest.mark.parametrize("task", ["entities", "multitask"])
def test_others_go_on_from_it(task: str, several: tuple[Path, NewVersion], tmp_path: Path) -> None:
    home, version = several
    files = {name: {"digest": r.digest, "size": r.size} for name, r in version.files.items()}
    changes = {"model": {"base": "tiny"}, "tokenizer": {"kind": "base"}, "steps": 1}
    optimizer = {"learning_rate": 1e-9, "weight_decay": 0.0}
    recipe = make_recipe(task, **changes, optimizer=optimizer)
    context, _ = make_job(home, recipe, base={"ref": "tiny:1", "files": files})
    context.checkpoint_dir = tmp_path / "next"
    (then,) = handler.run(context).artifacts
    assert (then.manifest["heads"] is None) == (task == "entities")
    before, after = (
        load_file(context.blobs.path(one.files["model.safetensors"].digest))
        for one in (version, then)
    )
    shared = before.keys() & after.keys()
    assert any(name.startswith("heads.") for name in shared) == (task == "multitask")
    assert max(float((before[name] - after[name]).abs().max()) for name in shared) < 1e-6


def test_data_of_every_task_may_be_a_file(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "score": n / 10, "label": "ab"[n % 2]} for n in range(40)]
    context, _ = make_job(tmp_path, make_recipe("classify"))
    content = "\n".join(json.dumps(row) for row in rows).encode()
    digest = context.blobs.put_bytes(content).digest
    also = {"rate": {"data": {"path": "b.jsonl"}, "weight": 2.0}}
    recipe = make_recipe("classify", data={"path": "a.jsonl"}, also=also)
    context, _ = make_job(tmp_path, recipe, data={"a.jsonl": digest, "b.jsonl": digest})
    (version,) = handler.run(context).artifacts
    assert version.manifest["heads"] == {"classify": ["a", "b"], "rate": []}
    assert version.inputs == (digest, digest)


def test_a_network_that_is_no_encoder_is_refused(tmp_path: Path) -> None:
    model = {"architecture": "gpt2", "config": {"n_layer": 1, "n_head": 2, "n_embd": 16}}
    context, _ = make_job(tmp_path, make_recipe("multitask", model=model))
    with pytest.raises(RecipeError, match="gpt2 is no encoder"):
        handler.run(context)


def test_running_text_is_refused_for_a_task_of_records(tmp_path: Path) -> None:
    also = {"rate": {"data": {"path": "starter:tales"}}}
    context, _ = make_job(tmp_path, make_recipe("classify", also=also))
    with pytest.raises(RecipeError, match="starter:tales is plain text: task rate needs records"):
        handler.run(context)


def test_a_loss_that_is_no_number_names_the_task(tmp_path: Path) -> None:
    optimizer = {"learning_rate": 1e30, "warmup_steps": 0, "grad_clip": 0}
    recipe = make_recipe("multitask", steps=20, optimizer=optimizer)
    context, _ = make_job(tmp_path, recipe)
    with pytest.raises(DivergedError, match=f"of rows [0-9]+ of ({'|'.join(TASKS)})"):
        handler.run(context)
