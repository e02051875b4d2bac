from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from llmos.training import checkpoint
from llmos.training.checkpoint import Progress
from llmos.training.optimizers import build_optimizer
from llmos.training.recipe_sections import OptimizerSection

SECTION = OptimizerSection(learning_rate=0.1)


class Tied(nn.Module):
    """An embedding tied to a head, with dropout between."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.dropout(self.norm(self.embedding(ids)), 0.5)
        return self.head(hidden)


def step(model: Tied, optimizer: torch.optim.Optimizer) -> float:
    loss = model(torch.arange(7)).square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_going_on_from_a_checkpoint_is_going_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tied()
    optimizer = build_optimizer(model, SECTION)
    step(model, optimizer)
    progress = Progress(step=1, curve=[{"step": 1.0, "loss": 0.1 + 0.2}], best_loss=0.5)
    checkpoint.save(tmp_path, model, optimizer, progress)
    expected = [step(model, optimizer), float(np.random.random()), random.random()]

    torch.manual_seed(99)
    other = Tied()
    other_optimizer = build_optimizer(other, SECTION)
    restored = checkpoint.load_latest(tmp_path, other, other_optimizer, pytest.fail)
    assert restored == progress
    assert [step(other, other_optimizer), float(np.random.random()), random.random()] == expected
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name])
    assert other.head.weight is other.embedding.weight


def test_two_checkpoints_are_kept_and_no_partial_ones(tmp_path: Path) -> None:
    model = Tied()
    (tmp_path / ".step-00000002.partial").mkdir()
    for number in (1, 2, 3):
        checkpoint.save(tmp_path, model, build_optimizer(model, SECTION), Progress(step=number))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]
    kinds = {path.suffix for path in tmp_path.glob("*/*")}
    assert kinds == {".safetensors", ".json"}


@pytest.mark.parametrize("name", ["weights.safetensors", "state.json", "digests.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, name: str
) -> None:
    model = Tied()
    for number in (1, 2):
        checkpoint.save(tmp_path, model, build_optimizer(model, SECTION), Progress(step=number))
    damaged = tmp_path / "step-00000002" / name
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    log: list[str] = []
    restored = checkpoint.load_latest(tmp_path, model, build_optimizer(model, SECTION), log.append)
    assert restored is not None and restored.step == 1
    assert log == ["checkpoint step-00000002 is damaged: going back to the one before"]


def test_without_a_checkpoint_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    model = Tied()
    assert (
        checkpoint.load_latest(tmp_path, model, build_optimizer(model, SECTION), pytest.fail)
        is None
    )


def test_damaged_checkpoints_do_not_push_out_the_next_good_one(tmp_path: Path) -> None:
    model = Tied()
    optimizer = build_optimizer(model, SECTION)
    for number in (5, 6):
        checkpoint.save(tmp_path, model, optimizer, Progress(step=number))
        (tmp_path / f"step-{number:08d}" / "weights.safetensors").write_bytes(b"")
    assert checkpoint.load_latest(tmp_path, model, optimizer, lambda line: None) is None
    checkpoint.save(tmp_path, model, optimizer, Progress(step=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert checkpoint.load_latest(tmp_path, model, optimizer, pytest.fail) == Progress(step=2)


def test_checkpoints_of_chosen_steps_stay(tmp_path: Path) -> None:
    model = Tied()
    optimizer = build_optimizer(model, SECTION)
    kept = {}
    for number in range(1, 7):
        step(model, optimizer)
        kept[number] = {name: w.clone() for name, w in checkpoint.weights_of(model).items()}
        average = {name: 2 * weight for name, weight in kept[number].items()}
        progress = Progress(step=number, average=average if number == 4 else None)
        checkpoint.write(tmp_path, checkpoint.snapshot(model, optimizer, progress), {2, 4})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"step-0000000{number}" for number in (2, 4, 5, 6)]
    for number, times in ((2, 1), (4, 2)):
        found = checkpoint.kept_weights(tmp_path, number)
        assert found is not None and found.keys() == kept[number].keys()
        assert all(torch.equal(found[n], times * weight) for n, weight in kept[number].items())
    damaged = tmp_path / "step-00000002" / "weights.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    assert checkpoint.kept_weights(tmp_path, 2) is None
    assert checkpoint.kept_weights(tmp_path, 3) is None
