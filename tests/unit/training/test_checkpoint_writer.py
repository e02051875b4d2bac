from __future__ import annotations

import errno
import threading
from collections.abc import Collection
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llmos.training import checkpoint
from llmos.training.checkpoint import Progress, Snapshot
from llmos.training.checkpoint_writer import CheckpointWriter
from llmos.training.optimizers import build_optimizer
from llmos.training.recipe_sections import OptimizerSection


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(3, 2)
    optimizer = build_optimizer(model, OptimizerSection(learning_rate=0.1))
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    return model, optimizer


def weights(directory: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(directory / f"step-{step:08d}" / "weights.safetensors")


def test_a_checkpoint_is_of_the_moment_it_was_taken_whatever_training_does_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, write = threading.Event(), checkpoint.write

    def write_later(root: Path, taken: Snapshot, keep_at: Collection[int]) -> None:
        may_write.wait()
        write(root, taken, keep_at)

    monkeypatch.setattr(checkpoint, "write", write_later)
    model, optimizer = trained()
    average = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    progress = Progress(step=1, curve=[{"step": 1.0}], average=average)
    writer = CheckpointWriter(tmp_path)
    writer.reserve(model, optimizer, progress)
    for step in (1, 2, 3):
        may_write.clear()
        before = model.weight.detach().clone()
        progress.step = step
        writer.save(model, optimizer, progress)
        assert writer.is_busy and not (tmp_path / f"step-{step:08d}").exists()
        optimizer.step()
        progress.average["weight"].add_(1.0)
        progress.curve.append({"step": float(step)})
        may_write.set()
        writer.wait()
        assert torch.equal(weights(tmp_path, step)["weight"], before)
        assert not torch.equal(model.weight, before)
    other, other_optimizer = trained()
    restored = checkpoint.load_latest(tmp_path, other, other_optimizer, pytest.fail)
    assert restored is not None and restored.average is not None
    assert len(restored.curve) == 3
    assert torch.equal(restored.average["weight"], torch.full((2, 3), 2.0))


def test_one_that_cannot_be_written_is_told_of_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = trained()
    writer = CheckpointWriter(tmp_path)
    writer.save(model, optimizer, Progress(step=1))
    writer.wait()

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "sync_file", full)
        writer.save(model, optimizer, Progress(step=2))
        with pytest.raises(OSError, match="No space"):
            writer.save(model, optimizer, Progress(step=3))
    writer.save_last(model, optimizer, Progress(step=3))
    steps = sorted(path.name for path in tmp_path.glob("step-*"))
    assert steps == ["step-00000001", "step-00000003"]
