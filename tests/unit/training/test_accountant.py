"""The accountant against what others published and against the definition, integrated."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmos.errors import RecipeError
from llmos.training import accountant
from llmos.training.accountant import ORDERS, divergences, epsilon, noise_for

DELTA = 1e-5


@pytest.mark.parametrize(
    ("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]
)
def test_the_published_costs_of_learning_digits(
    noise: float, epochs: int, published: float
) -> None:
    """TensorFlow Privacy's table for MNIST (tutorials/README.md, commit d435fcb: 60,000 images,
    batches of 256), which turns divergences into epsilon by Mironov's proposition 3 of 2017 and
    looks at broken orders too."""
    rate = 256 / 60_000
    steps = epochs * 60_000 // 256
    costs = zip(ORDERS, divergences(rate, noise), strict=True)
    looser = min(steps * cost + math.log(1 / DELTA) / (order - 1) for order, cost in costs)
    assert looser == pytest.approx(published, abs=0.005)
    assert 0.8 * looser < epsilon(rate, noise, steps, DELTA) < looser


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta", "theirs"),
    [
        (0.04, 1.5, 2250, 1e-5, 7.32911117143),  # its own test (accountants_test.py, 030b723)
        (0.01, 0.5, 100, 1e-5, 8.030725352808414),
        (0.01, 1.0, 10000, 1e-6, 7.414025254409949),
        (0.004, 0.7, 1000, 1e-5, 2.8298802425328895),
        (0.1, 2.0, 1000, 1e-5, 8.943850128037363),
        (0.3, 10.0, 1000, 1e-6, 4.956939451812898),
        (0.001, 1.0, 1000, 1e-5, 0.677825724599742),
        (1.0, 5.0, 100, 1e-5, 10.725509696418232),
    ],
)
def test_costs_are_those_of_opacus(
    rate: float, noise: float, steps: int, delta: float, theirs: float
) -> None:
    """As computed by Opacus 1.6.0's RDP accountant at its own orders, 1.1 to 63."""
    assert epsilon(rate, noise, steps, delta) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize(("steps", "published"), [(2250, 1.416), (2000, 1.3562)])
def test_the_noise_that_opacus_tests_itself_with(steps: int, published: float) -> None:
    """As above: the noise that keeps epsilon 8 at a rate of 0.04."""
    assert noise_for(8.0, 0.04, steps, DELTA) == pytest.approx(published, rel=1e-3)


def test_a_step_of_all_examples_is_the_gaussian_mechanism() -> None:
    for order, cost in zip(ORDERS, divergences(1.0, 2.0), strict=True):
        assert cost == pytest.approx(order / 8)


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.2, 2.0), (0.05, 0.8), (0.7, 1.0)])
def test_divergences_are_those_of_the_definition(rate: float, noise: float) -> None:
    """E over N(0, s^2) of ((1 - q) + q N(1, s^2) / N(0, s^2))^order, integrated on a grid."""
    grid = np.linspace(-40 * noise, 40 * noise, 2_000_001)
    plain = np.exp(-(grid**2) / (2 * noise**2)) / (noise * math.sqrt(2 * math.pi))
    ratio = (1 - rate) + rate * np.exp((2 * grid - 1) / (2 * noise**2))
    for order in (1.1, 1.5, 2, 2.7, 3, 8, 9.9):
        found = np.trapezoid(plain * ratio**order, grid)
        expected = math.log(found) / (order - 1)
        ours = divergences(rate, noise)[ORDERS.index(order)]
        assert ours == pytest.approx(expected, rel=1e-6)


def test_more_noise_and_fewer_steps_cost_less() -> None:
    assert epsilon(0.01, 2.0, 1000, DELTA) < epsilon(0.01, 1.0, 1000, DELTA)
    assert epsilon(0.01, 1.0, 500, DELTA) < epsilon(0.01, 1.0, 1000, DELTA)
    assert epsilon(0.005, 1.0, 1000, DELTA) < epsilon(0.01, 1.0, 1000, DELTA)
    assert epsilon(0.01, 1.0, 0, DELTA) == 0.0
    assert epsilon(0.01, 0.0, 1, DELTA) == math.inf


@pytest.mark.parametrize("wanted", [0.5, 3.0, 20.0])
def test_the_noise_for_a_cost_is_the_least(wanted: float) -> None:
    noise = noise_for(wanted, 0.02, 800, DELTA)
    assert epsilon(0.02, noise, 800, DELTA) <= wanted
    assert epsilon(0.02, noise * 0.99, 800, DELTA) > wanted


def test_a_cost_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(RecipeError, match="cannot be kept in 100000 steps"):
        noise_for(1e-4, 1.0, 100_000, DELTA)
    assert accountant.MAX_NOISE == 1000
