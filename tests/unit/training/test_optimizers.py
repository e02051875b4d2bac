from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import nn

from llmos.errors import RecipeError
from llmos.training import checkpoint
from llmos.training.checkpoint import Progress
from llmos.training.optimizers import build_optimizer, set_learning_rate
from llmos.training.recipe_sections import OptimizerKind, OptimizerSection

KINDS = get_args(OptimizerKind)


class Small(nn.Module):
    """An embedding, a matrix, a norm and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 8)
        self.inner = nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 7, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.inner(self.embedding(ids))))

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def made(kind: str, **values: Any) -> tuple[Small, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = Small()
    given: dict[str, Any] = {"kind": kind, "learning_rate": 0.01, **values}
    return model, build_optimizer(model, OptimizerSection(**given))


def step(model: Small, optimizer: torch.optim.Optimizer) -> float:
    loss = nn.functional.cross_entropy(model(torch.arange(7)), torch.arange(7))
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.parametrize("kind", KINDS)
def test_every_optimizer_learns(kind: str) -> None:
    model, optimizer = made(kind)
    set_learning_rate(optimizer, 0.5 if kind == "sgd" else 0.02)
    losses = [step(model, optimizer) for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [None, 0.9])
def test_going_on_from_a_checkpoint_is_going_on(
    kind: str, momentum: float | None, tmp_path: Path
) -> None:
    model, optimizer = made(kind, momentum=momentum)
    for _ in range(3):
        step(model, optimizer)
    checkpoint.save(tmp_path, model, optimizer, Progress(step=3))
    expected = [step(model, optimizer) for _ in range(3)]
    other, its_optimizer = made(kind, momentum=momentum)
    assert checkpoint.load_latest(tmp_path, other, its_optimizer, pytest.fail) is not None
    assert [step(other, its_optimizer) for _ in range(3)] == expected
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(one, its) for one, its in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_alone_decay(kind: str) -> None:
    model, optimizer = made(kind, weight_decay=0.3)
    decaying = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert len(decaying) == len(list(model.parameters()))
    for parameter in model.parameters():
        assert decaying[id(parameter)] == (0.3 if parameter.dim() == 2 else 0.0)


def test_what_is_frozen_is_left_alone() -> None:
    for kind in KINDS:
        model = Small()
        model.embedding.requires_grad_(False)
        before = copy.deepcopy(model.embedding)
        optimizer = build_optimizer(model, OptimizerSection(kind=kind, learning_rate=0.1))
        step(model, optimizer)
        assert torch.equal(model.embedding.weight, before.weight)


def test_muon_leaves_the_head_of_a_classifier_to_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Module()
    model.embedding, model.inner, model.classifier = (
        nn.Embedding(7, 8),
        nn.Linear(8, 8),
        nn.Linear(8, 3),
    )
    optimizer = build_optimizer(model, OptimizerSection(kind="muon", learning_rate=0.1))
    out = model.classifier(model.inner(model.embedding(torch.arange(7))))
    out.square().sum().backward()
    optimizer.step()
    assert set(optimizer.state[model.inner.weight]) == {"momentum_buffer"}
    assert "exp_avg_sq" in optimizer.state[model.classifier.weight]


def test_lion_goes_by_the_sign_of_its_average() -> None:
    """Two steps of the algorithm of the paper, by hand."""
    weight = nn.Parameter(torch.tensor([[1.0, -2.0]]))
    holder = nn.Module()
    holder.weight = weight
    section = OptimizerSection(
        kind="lion", learning_rate=0.1, betas=[0.5, 0.75], weight_decay=0.2, momentum=None
    )
    optimizer = build_optimizer(holder, section)
    for gradient in ([2.0, -4.0], [-1.0, 6.0]):
        weight.grad = torch.tensor([gradient])
        optimizer.step()
    # averages: (0.5, -1), then (0.125, 0.75); directions: (+, -), then those of
    # 0.5 x (0.5, -1) + 0.5 x (-1, 6) = (-0.25, 2.5): (-, +)
    first = torch.tensor([[1.0 * 0.98 - 0.1, -2.0 * 0.98 + 0.1]])
    second = first * 0.98 + torch.tensor([[0.1, -0.1]])
    assert torch.allclose(weight.detach(), second)
    assert torch.allclose(optimizer.state[weight]["exp_avg"], torch.tensor([[0.125, 0.75]]))


def test_muon_takes_the_inner_matrices_and_adamw_the_rest() -> None:
    model, optimizer = made("muon", weight_decay=0.0)
    before = copy.deepcopy(model)
    step(model, optimizer)
    assert set(optimizer.state[model.inner.weight]) == {"momentum_buffer"}
    for name, parameter in model.named_parameters():
        if name != "inner.weight":
            assert "exp_avg_sq" in optimizer.state[parameter]
    moved = (model.inner.weight - before.inner.weight).detach()
    strengths = torch.linalg.svdvals(moved)
    assert strengths[0] < 2 * strengths[-2], "all directions alike"
    assert 0.1 < float(moved.square().mean().sqrt()) / 0.01 < 0.5, "about as far as AdamW"


def test_muon_without_a_matrix_to_train_is_refused() -> None:
    model = Small()
    model.inner.requires_grad_(False)
    section = OptimizerSection(kind="muon", learning_rate=0.01)
    with pytest.raises(RecipeError, match="there are none to train: use adamw"):
        build_optimizer(model, section)
