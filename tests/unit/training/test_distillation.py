"""The losses of distillation, against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmos.training.distillation import hidden_distance, soft_loss_sum
from llmos.training.recipe_sections import DistillSection


def test_the_soft_loss_is_the_divergence_at_a_temperature() -> None:
    ours, theirs = np.array([[1.0, 2.0, -1.0], [0.0, 0.5, 3.0]]), np.array([[0.3, 1.0, 0.2]] * 2)
    temperature = 3.0

    def soft(z: np.ndarray) -> np.ndarray:
        exp = np.exp(z / temperature)
        return exp / exp.sum(-1, keepdims=True)

    p, q = soft(theirs), soft(ours)
    expected = temperature**2 * (p * np.log(p / q)).sum()
    found = soft_loss_sum(torch.tensor(ours), torch.tensor(theirs), temperature)
    assert float(found) == pytest.approx(expected, rel=1e-6)
    assert float(soft_loss_sum(torch.tensor(theirs), torch.tensor(theirs), 2.0)) == 0


def test_its_gradient_hardly_depends_on_the_temperature() -> None:
    """Hinton et al., section 2.1: with T^2 it tends to (z - v) / N for logits of mean 0."""
    theirs = torch.tensor([[0.5, -0.2, -0.3]])
    gradients = []
    for temperature in (20.0, 40.0):
        ours = torch.tensor([[0.1, 0.3, -0.4]], requires_grad=True)
        soft_loss_sum(ours, theirs, temperature).backward()
        assert ours.grad is not None
        gradients.append(ours.grad)
    assert torch.allclose(gradients[0], gradients[1], rtol=0.05)
    expected = (torch.tensor([[0.1, 0.3, -0.4]]) - theirs) / 3
    assert torch.allclose(gradients[1], expected, rtol=0.05)


def test_hidden_states_are_apart_by_squares_or_by_angle() -> None:
    a, b = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]])
    sections = {
        loss: DistillSection.model_validate({"teacher": "t", "hidden": {"loss": loss}})
        for loss in ("mse", "cosine")
    }
    assert float(hidden_distance(a, b, sections["mse"])) == pytest.approx(5.0)
    assert float(hidden_distance(a, b, sections["cosine"])) == pytest.approx(1.0)
    assert math.isclose(float(hidden_distance(a, 4 * a, sections["cosine"])), 0.0, abs_tol=1e-6)
