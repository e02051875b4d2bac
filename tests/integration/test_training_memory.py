"""Batches cut to fit, products in bfloat16 and activations computed again: what they change."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import OutOfMemoryError, RecipeError
from llmos.kernel.protocol import JobLog, JobMetric
from llmos.training import handler
from llmos.training.trainer import DivergedError, Trainer


def trained(directory: Path, **changes: Any) -> tuple[dict[str, torch.Tensor], list[float]]:
    its = make_recipe("chat", **changes)
    context, sent = make_job(directory, its)
    handler.run(context)
    path = directory / "checkpoint" / "checkpoints" / "step-00000004" / "weights.safetensors"
    return load_file(path), [m.values["loss"] for m in sent if isinstance(m, JobMetric)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], list[float]]:
    return trained(tmp_path_factory.mktemp("plain"))


def test_rows_at_a_time_change_the_rounding_alone(
    plain: tuple[dict[str, torch.Tensor], list[float]], tmp_path: Path
) -> None:
    weights, losses = trained(tmp_path, micro_batch_size=1)
    assert losses == pytest.approx(plain[1], rel=1e-5)
    assert all(torch.allclose(w, plain[0][name], atol=2e-4) for name, w in weights.items())


def test_activations_that_are_computed_again_change_nothing(
    plain: tuple[dict[str, torch.Tensor], list[float]], tmp_path: Path
) -> None:
    weights, losses = trained(tmp_path, activation_checkpointing=True)
    assert losses == plain[1]
    assert all(torch.equal(w, plain[0][name]) for name, w in weights.items())


def test_products_in_bfloat16_lead_about_as_far_and_weights_stay_float32(
    plain: tuple[dict[str, torch.Tensor], list[float]], tmp_path: Path
) -> None:
    weights, losses = trained(tmp_path, precision="bfloat16")
    assert losses != plain[1] and losses == pytest.approx(plain[1], rel=1e-2)
    assert all(w.dtype == torch.float32 for w in weights.values())


def test_a_network_without_activation_checkpointing_says_so(tmp_path: Path) -> None:
    model = {"architecture": "recurrent", "config": {"hidden_size": 8}}
    its = make_recipe("generate", model=model, activation_checkpointing=True)
    with pytest.raises(RecipeError, match="activation_checkpointing: this network cannot"):
        handler.run(make_job(tmp_path, its)[0])


@pytest.mark.parametrize("fits", [2, 1])
def test_memory_that_runs_out_halves_what_is_computed_at_a_time(
    fits: int,
    plain: tuple[dict[str, torch.Tensor], list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backward = Trainer._backward

    def small(self: Trainer, batch: Any, num_labels: int) -> torch.Tensor:
        if len(batch.labels) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return backward(self, batch, num_labels)

    monkeypatch.setattr(Trainer, "_backward", small)
    if fits == 1:
        with pytest.raises(OutOfMemoryError, match="2 rows at a time do not fit"):
            trained(tmp_path)
    else:
        assert trained(tmp_path)[1] == pytest.approx(plain[1], rel=1e-5)


def test_a_loss_that_is_no_number_is_told_with_its_step_and_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, taken = Trainer._backward, list[list[int]]()
    step = Trainer._step

    def noted(self: Trainer, optimizer: Any, rows: Any) -> None:
        taken.append([int(row) for own in rows for row in own])
        step(self, optimizer, rows)

    def poisoned(self: Trainer, batch: Any, num_labels: int) -> torch.Tensor:
        loss = backward(self, batch, num_labels)
        if self.progress.step == 3:
            next(self.model.parameters()).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Trainer, "_step", noted)
    monkeypatch.setattr(Trainer, "_backward", poisoned)
    context, sent = make_job(tmp_path, make_recipe("chat"))
    with pytest.raises(DivergedError, match="gradient's norm became nan at step 4, of rows"):
        handler.run(context)
    rows = ", ".join(map(str, taken[3]))
    assert JobLog(f"step 4 learned from rows {rows} of the training split") in sent
    kept = [path.name for path in (tmp_path / "checkpoint" / "checkpoints").iterdir()]
    assert kept == ["step-00000002"]


@pytest.mark.parametrize("task", ["chat", "fill_mask"])
def test_the_first_step_that_went_wrong_is_told_though_nobody_looked_then(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient of step 2 is no number, so that the loss of step 3 is none either; both are
    looked at when step 4 reports. What stands in the log are rows, whatever else was drawn."""
    backward = Trainer._backward

    def poisoned(self: Trainer, batch: Any, num_labels: int) -> torch.Tensor:
        loss = backward(self, batch, num_labels)
        if self.progress.step == 1:
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float("nan"))
        return loss

    monkeypatch.setattr("llmos.training.trainer.REPORTS", 1)
    monkeypatch.setattr(Trainer, "_backward", poisoned)
    context, sent = make_job(tmp_path, make_recipe(task, eval_every=4, checkpoint_every=4))
    with pytest.raises(DivergedError, match="gradient's norm became nan at step 2, of rows"):
        handler.run(context)
    [line] = [m.line for m in sent if isinstance(m, JobLog) and "learned from rows" in m.line]
    rows = re.findall(r"\d+", line.partition("rows")[2])
    assert len(rows) == 4 and max(map(int, rows)) < 60
    assert not list((tmp_path / "checkpoint").glob("checkpoints/*")), "none of what went wrong"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_memory_that_runs_out_where_nothing_can_be_cut_is_said_with_the_estimate(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "_backward", full)
    with pytest.raises(
        OutOfMemoryError, match=r"estimated to need \d+\.\d [MG]B.*batch_size"
    ) as told:
        handler.run(make_job(tmp_path, make_recipe("embed"))[0])
    assert not told.value.retryable
