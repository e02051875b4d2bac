"""Gradients of private steps: cut example by example, noisy, of examples taken by themselves."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.training.tiny import make_recipe
from torch import nn

from llmos.errors import RecipeError
from llmos.training.objectives import Batch
from llmos.training.privacy import Privacy, _check_network, add_clipped, published
from llmos.training.recipe import parse

PRIVACY = Privacy(b"s" * 32, np.arange(1000), 100, 1.0, 1.0, 1e-5)


class Squares(nn.Module):
    """One weight vector; the loss of an example is half its squared distance from it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.device = torch.device("cpu")


class Example(Batch):
    @property
    def num_labels(self) -> int:
        return 1

    def loss_sum(self, model: Any, label_smoothing: float = 0.0) -> torch.Tensor:
        return (model.weight - self.labels).square().sum() / 2


def gradient(privacy: Privacy, points: list[list[float]], step: int = 0) -> torch.Tensor:
    model: Any = Squares()
    batches = [Example({}, torch.tensor(point)) for point in points]
    privacy.backward(model, batches, step, 0.0, lambda: None)
    assert model.weight.grad is not None
    return model.weight.grad


def test_each_gradient_is_cut_by_itself() -> None:
    sums = [torch.zeros(2), torch.zeros(1)]
    add_clipped(sums, (torch.tensor([3.0, 0.0]), torch.tensor([4.0])), 1.0)
    assert torch.allclose(torch.cat(sums), torch.tensor([0.6, 0.0, 0.8]))
    add_clipped(sums, (torch.tensor([0.1, 0.0]), None), 1.0)
    assert torch.allclose(torch.cat(sums), torch.tensor([0.7, 0.0, 0.8]))


def test_without_noise_and_cuts_it_is_the_mean_over_the_usual_number() -> None:
    plain = dataclasses.replace(PRIVACY, noise_multiplier=0.0, max_norm=1e9, batch_size=4)
    assert gradient(plain, [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]]).tolist() == [-1.0, -1.0, -1.0]


def test_noise_is_of_the_size_that_is_accounted_for() -> None:
    noisy = dataclasses.replace(PRIVACY, noise_multiplier=2.0, max_norm=0.5, batch_size=10)
    drawn = torch.stack([gradient(noisy, [], step) for step in range(2000)])
    assert float(drawn.std()) == pytest.approx(2.0 * 0.5 / 10, rel=0.03)
    assert abs(float(drawn.mean())) < 0.005
    again = gradient(noisy, [], 7)
    assert torch.equal(again, drawn[7]) and not torch.equal(drawn[7], drawn[8])
    other = dataclasses.replace(noisy, secret=b"t" * 32)
    assert not torch.equal(gradient(other, [], 7), again)


def test_examples_are_taken_each_by_itself() -> None:
    sizes = np.array([len(PRIVACY.rows(step)) for step in range(500)])
    assert sizes.mean() == pytest.approx(100, rel=0.02)
    assert sizes.var() == pytest.approx(1000 * 0.1 * 0.9, rel=0.25), "a binomial's, not 0"
    counts = np.bincount(np.concatenate([PRIVACY.rows(s) for s in range(500)]), minlength=1000)
    assert counts.min() > 20 and counts.max() < 90
    assert np.array_equal(PRIVACY.rows(3), PRIVACY.rows(3))


def test_a_network_that_looks_over_the_batch_is_refused() -> None:
    with pytest.raises(RecipeError, match="0 normalises over the batch"):
        _check_network(nn.Sequential(nn.BatchNorm1d(3)))
    _check_network(nn.Sequential(nn.LayerNorm(3)))


def test_what_examples_show_in_is_not_published() -> None:
    point = {"step": 1.0, "loss": 2.0, "tokens_per_s": 9.0, "validation_loss": 2.1}
    assert published([point]) == [{"step": 1.0, "validation_loss": 2.1}]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"architecture": "gpt2"}}, "would tell of it"),
        ({"privacy": {}}, "either noise_multiplier or epsilon"),
        ({"privacy": {"epsilon": 1, "noise_multiplier": 1}}, "either noise_multiplier or epsilon"),
        ({"privacy": {"epsilon": 0}}, "privacy.epsilon is 0"),
        ({"accumulate": 2}, "accumulate"),
        ({"robust": {"noise": 5}}, "robust"),
        ({"labels": None}, "labels"),
    ],
)
def test_what_cannot_be_private_is_refused(changes: dict[str, Any], says: str) -> None:
    base = {
        "model": {"base": "b"},
        "tokenizer": {"kind": "base"},
        "labels": ["negative", "neutral", "positive"],
        "privacy": {"epsilon": 8},
    }
    parse(make_recipe("classify", **base))
    with pytest.raises(RecipeError, match=says):
        parse(make_recipe("classify", **base | changes))
