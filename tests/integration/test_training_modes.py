"""Ways to go on from a model: the last layer, parts of it, more text, or in private."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError, RecipeError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric
from llmos.training import handler
from llmos.training.privacy import SECRET_FILE

LABELS = ["negative", "neutral", "positive"]


@pytest.fixture(scope="module", params=["classify", "generate", "chat"])
def base(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any], Path]:
    return made(request.param, tmp_path_factory.mktemp("base"))


def made(task: str, home: Path) -> tuple[str, dict[str, Any], Path]:
    context, _ = make_job(home, make_recipe(task))
    (version,) = handler.run(context).artifacts
    files = {name: {"digest": ref.digest, "size": ref.size} for name, ref in version.files.items()}
    return task, {"ref": "tiny:1", "digest": "sha256:base", "files": files}, home


def job(
    base: tuple[str, dict[str, Any], Path], name: str, model: Any = None, **changes: Any
) -> tuple[JobContext, list[Any]]:
    task, told, home = base
    quick: dict[str, Any] = {
        "model": {"base": "tiny", **(model or {})},
        "tokenizer": {"kind": "base"},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
    }
    if task == "classify":
        quick["labels"] = LABELS
    recipe = make_recipe(task, **quick | changes)
    recipe.pop("chat_template", None)
    context, sent = make_job(home, recipe, base=told)
    context.checkpoint_dir = home / name
    return context, sent


def weights(context: JobContext, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(
        context.checkpoint_dir / "checkpoints" / f"step-{step:08d}" / "weights.safetensors"
    )


def changed(context: JobContext) -> set[str]:
    before = load_file(context.checkpoint_dir / "base" / "model.safetensors")
    return {name for name, now in weights(context).items() if not torch.equal(now, before[name])}


def test_the_last_layer_alone_is_tuned(tmp_path: Path) -> None:
    context, _ = job(made("classify", tmp_path), "head", {"train_only": ["head"]})
    handler.run(context)
    assert changed(context) == {"classifier.weight", "classifier.bias"}


def test_layers_that_are_named_are_tuned(tmp_path: Path) -> None:
    context, _ = job(made("generate", tmp_path), "some", {"train_only": ["*.ln_f.*", "*.mlp.*"]})
    handler.run(context)
    names = changed(context)
    assert names and all(".mlp." in name or ".ln_f." in name for name in names)


def test_a_head_that_is_the_embeddings_is_none(tmp_path: Path) -> None:
    context, _ = job(made("generate", tmp_path), "tied", {"train_only": ["head"]})
    with pytest.raises(RecipeError, match="has no head of its own"):
        handler.run(context)
    context, _ = job(made("generate", tmp_path), "typo", {"train_only": ["*.mpl.*"]})
    with pytest.raises(RecipeError, match=r"train_only: no parameter is named \*\.mpl\.\*"):
        handler.run(context)


def test_a_chat_model_reads_on_in_plain_text(tmp_path: Path) -> None:
    """Continued pretraining: another task than the base's, of its family."""
    _, told, home = made("chat", tmp_path)
    recipe = make_recipe("generate", model={"base": "tiny"}, tokenizer={"kind": "base"}, steps=8)
    context, sent = make_job(home, recipe, base=told)
    context.checkpoint_dir = home / "on"
    (version,) = handler.run(context).artifacts
    losses = [m.values["loss"] for m in sent if isinstance(m, JobMetric)]
    assert losses[-1] < losses[0]
    assert version.manifest["task"] == "generate" and version.inputs[1] == "tiny:1"
    assert version.manifest["parity"]["greedy_tokens"] > 0


def test_private_training_goes_on_to_the_very_weights(
    base: tuple[str, dict[str, Any], Path], tmp_path: Path
) -> None:
    its: dict[str, Any] = {"privacy": {"noise_multiplier": 1.0}, "steps": 8, "checkpoint_every": 8}
    whole, sent = job(base, "whole", **its)
    (version,) = handler.run(whole).artifacts
    left, _ = job(base, "left", **its)
    left.checkpoint_dir.mkdir()
    shutil.copy(whole.checkpoint_dir / SECRET_FILE, left.checkpoint_dir / SECRET_FILE)
    num_examples, wait = 0, left.wait_while_paused

    def leave_at_the_tenth() -> None:
        nonlocal num_examples
        num_examples += 1
        if num_examples == 10:
            left.leave()
        wait()

    left.wait_while_paused = leave_at_the_tenth  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        handler.run(left)
    handler.run(job(base, "left", **its)[0])
    for name in ("weights", "optimizer"):
        path = Path("checkpoints", "step-00000008", f"{name}.safetensors")
        ours, theirs = (run.checkpoint_dir / path for run in (whole, left))
        assert ours.read_bytes() == theirs.read_bytes()
    other, _ = job(base, "other", **its)
    handler.run(other)
    ours, theirs = weights(whole, 8), weights(other, 8)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours), "a secret of its own"

    report = version.manifest["metrics"]["privacy"]
    assert report["steps"] == 8 and 0 < report["epsilon"] < 100 and report["delta"] <= 1e-5
    told = [m.values for m in sent if isinstance(m, JobMetric)]
    assert told[-1]["epsilon"] == pytest.approx(report["epsilon"])
    assert told[0]["epsilon"] < told[-1]["epsilon"]
    directory = whole.blobs.materialize(dict(version.files), tmp_path / "m")
    points = json.loads((directory / "loss.json").read_text())["points"]
    assert all({"loss", "tokens_per_s"}.isdisjoint(point) for point in points)
    secret = (whole.checkpoint_dir / SECRET_FILE).read_bytes()
    assert (whole.checkpoint_dir / SECRET_FILE).stat().st_mode & 0o077 == 0
    assert SECRET_FILE not in version.files
    assert not any(secret in path.read_bytes() for path in directory.iterdir())


def test_an_adapter_is_trained_in_private(tmp_path: Path) -> None:
    context, _ = job(made("chat", tmp_path), "lora", adapter={"rank": 2}, privacy={"epsilon": 8})
    (version,) = handler.run(context).artifacts
    assert version.kind == "adapter"
    report = version.manifest["metrics"]["privacy"]
    assert 7.5 < report["epsilon"] <= 8
