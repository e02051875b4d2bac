"""How much a noisy, sampled training tells of any one example: the accountant of DP-SGD.

A step samples each example with probability q, cuts its gradient to a norm of C and adds Gaussian
noise of standard deviation sigma C (Abadi et al., arXiv:1607.00133, algorithm 1). Its Rényi
divergence of order alpha is that of the sampled Gaussian mechanism (Mironov, Talwar and Zhang,
arXiv:1908.10530, section 3.3), steps add up (Mironov, arXiv:1702.07476, proposition 1), and the sum
gives (epsilon, delta) by Canonne, Kamath and Steinke (arXiv:2004.00010, proposition 12). Neighbours
are data sets of which one has an example more. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from llmos.errors import RecipeError

ORDERS = (*range(2, 65), *range(66, 129, 2), *range(132, 257, 4), 320, 384, 512, 768, 1024)
"""Whole numbers: any order gives a bound that holds, and the best of these is close to the best."""
MAX_NOISE = 1000.0
PRECISION = 1e-3
"""Of the noise that is looked for, relative."""


@lru_cache(maxsize=64)
def divergences(sampling_rate: float, noise_multiplier: float) -> tuple[float, ...]:
    """The Rényi divergence of one step at each of `ORDERS`."""
    return tuple(_divergence(order, sampling_rate, noise_multiplier) for order in ORDERS)


def epsilon(sampling_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """The least epsilon at which so many steps are (epsilon, delta)-private.

    Args:
        sampling_rate: probability that a step takes an example, above 0 and at most 1.
        noise_multiplier: standard deviation of the noise over the largest norm of a gradient.
        delta: above 0 and below 1.
    """
    if steps == 0:
        return 0.0
    if noise_multiplier == 0:
        return math.inf
    bounds: Iterator[float] = (
        steps * divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
        for order, divergence in zip(
            ORDERS, divergences(sampling_rate, noise_multiplier), strict=True
        )
    )
    least = min(bounds)
    return max(0.0, least)


def noise_for(wanted: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The least noise multiplier, to a thousandth, at which training stays within an epsilon.

    Raises:
        RecipeError: no noise would do.
    """
    low, high = 0.0, 1.0
    while epsilon(sampling_rate, high, steps, delta) > wanted:
        low, high = high, 2 * high
        if high > MAX_NOISE:
            raise RecipeError(
                f"privacy.epsilon {wanted:g} cannot be kept in {steps} steps: "
                "allow more, take fewer steps or a smaller batch"
            )
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if epsilon(sampling_rate, middle, steps, delta) > wanted:
            low = middle
        else:
            high = middle
    return high


def _divergence(order: int, q: float, sigma: float) -> float:
    """Equation 9 for whole orders: the log of the binomial sum, over order - 1."""
    if q == 1:
        return order / (2 * sigma**2)
    terms = [
        _log_binomial(order, k)
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    total = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return max(0.0, total) / (order - 1)


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
