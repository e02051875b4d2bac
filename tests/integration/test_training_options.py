"""Optimizers, schedules, averages and early ends, each through the whole training job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError, RecipeError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobLog, JobMetric
from llmos.training import handler
from llmos.training.recipe import parse
from llmos.training.recipe_sections import OptimizerKind

STEPS = 8
DROPOUT = {"n_layer": 1, "n_head": 2, "n_embd": 16, "attn_pdrop": 0.1, "resid_pdrop": 0.1}


def recipe(optimizer: dict[str, Any], **changes: Any) -> dict[str, Any]:
    model = {"architecture": "gpt2", "config": DROPOUT}
    quick = {"steps": STEPS, "checkpoint_every": STEPS, "eval_every": 1, "publish": "best"}
    section = {"learning_rate": 1e-2, **optimizer}
    return make_recipe("generate", model=model, optimizer=section, **(quick | changes))


def leave_in_step_4(context: JobContext) -> None:
    num_batches, wait = 0, context.wait_while_paused

    def leave() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 4:
            context.leave()
        wait()

    context.wait_while_paused = leave  # type: ignore[method-assign]


def assert_same_checkpoints(directory: Path, names: Sequence[str]) -> None:
    for name in names:
        path = Path("checkpoint", "checkpoints", "step-00000008", f"{name}.safetensors")
        whole, left = (directory / run / path for run in ("whole", "left"))
        assert whole.read_bytes() == left.read_bytes()


@pytest.mark.parametrize("kind", get_args(OptimizerKind))
def test_any_optimizer_goes_on_to_the_very_weights(kind: str, tmp_path: Path) -> None:
    """With a rate that follows the validation losses and an average that follows the weights."""
    its = recipe({"kind": kind, "schedule": "plateau", "patience": 1}, ema=0.9)
    handler.run(make_job(tmp_path / "whole", its)[0])
    context, _ = make_job(tmp_path / "left", its)
    leave_in_step_4(context)
    with pytest.raises(CancelledError):
        handler.run(context)
    handler.run(make_job(tmp_path / "left", its)[0])
    assert_same_checkpoints(tmp_path, ("weights", "optimizer", "average", "best"))


@pytest.mark.parametrize("section", [{"noise": 5.0}, {"adversarial": 1.0}, {"r_drop": 2.0}])
def test_robust_training_goes_on_to_the_very_weights(
    section: dict[str, float], tmp_path: Path
) -> None:
    its = recipe({}, robust=section)
    handler.run(make_job(tmp_path / "whole", its)[0])
    context, _ = make_job(tmp_path / "left", its)
    leave_in_step_4(context)
    with pytest.raises(CancelledError):
        handler.run(context)
    handler.run(make_job(tmp_path / "left", its)[0])
    assert_same_checkpoints(tmp_path, ("weights", "optimizer", "best"))


def test_packed_training_goes_on_to_the_very_weights(tmp_path: Path) -> None:
    its = make_recipe("chat", packing=True, steps=STEPS, checkpoint_every=STEPS, eval_every=4)
    its["model"]["config"] |= {"attention_dropout": 0.1}
    handler.run(make_job(tmp_path / "whole", its)[0])
    context, _ = make_job(tmp_path / "left", its)
    leave_in_step_4(context)
    with pytest.raises(CancelledError):
        handler.run(context)
    handler.run(make_job(tmp_path / "left", its)[0])
    assert_same_checkpoints(tmp_path, ("weights", "optimizer"))


def test_packing_is_refused_where_there_is_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="packing: this text is one long sequence"):
        handler.run(make_job(tmp_path, recipe({}, packing=True))[0])
    with pytest.raises(RecipeError, match="packing is for objective causal_lm"):
        parse(make_recipe("classify", packing=True))


def test_what_is_published_is_the_average_of_the_weights(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, recipe({}, ema=0.99, publish="last"))
    result = handler.run(context)
    kept = tmp_path / "checkpoint" / "checkpoints" / "step-00000008"
    average, last = (load_file(kept / f"{name}.safetensors") for name in ("average", "weights"))
    files = dict(result.artifacts[0].files)
    published = load_file(context.blobs.materialize(files, tmp_path / "m") / "model.safetensors")
    assert all(torch.equal(tensor, average[name]) for name, tensor in published.items())
    assert not torch.equal(average["transformer.wte.weight"], last["transformer.wte.weight"])
    told = [m.values["validation_loss"] for m in sent if isinstance(m, JobMetric)]
    points = json.loads((tmp_path / "m" / "loss.json").read_text())["points"]
    assert [point["validation_loss"] for point in points] == told


def test_training_ends_early_where_nothing_gets_better(tmp_path: Path) -> None:
    its = recipe({"learning_rate": 1.0, "kind": "sgd"}, early_stopping=2, steps=500)
    context, sent = make_job(tmp_path, its)
    result = handler.run(context)
    losses = [m.values["validation_loss"] for m in sent if isinstance(m, JobMetric)]
    best = losses.index(min(losses))
    assert len(losses) == best + 3 < 500
    assert result.artifacts[0].manifest["source"]["published_step"] == best + 1
    lines = [message.line for message in sent if isinstance(message, JobLog)]
    assert f"no better since step {best + 1}: ended at {best + 3}" in lines
    again, sent = make_job(tmp_path, its)
    handler.run(again)
    assert not [m for m in sent if isinstance(m, JobMetric)], "it had ended"


def test_the_gradient_is_told_before_it_is_cut(tmp_path: Path) -> None:
    norms = {}
    for limit in (0.0, 1e-3):
        context, sent = make_job(tmp_path / str(limit), recipe({"grad_clip": limit}, steps=1))
        handler.run(context)
        [point] = [m.values for m in sent if isinstance(m, JobMetric)]
        norms[limit] = point["gradient_norm"]
    assert norms[0.0] == norms[1e-3] > 1e-3
