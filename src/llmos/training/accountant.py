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

WHOLE = (*range(2, 65), *range(66, 129, 2), *range(132, 257, 4), 320, 384, 512, 768, 1024)
BROKEN = tuple(tenths / 10 for tenths in range(11, 110) if tenths % 10)
ORDERS: tuple[float, ...] = (*BROKEN, *WHOLE)
"""Any order gives a bound that holds, and the best of these is close to the best: low ones where
there is little noise, high ones where there is much."""
NEGLIGIBLE = -40.0
"""The log of terms that no longer count beside a sum of 1 or more."""
MAX_TERMS = 1000
FAR = 20.0
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


def _divergence(order: float, q: float, sigma: float) -> float:
    if q == 1:
        return order / (2 * sigma**2)
    log_sum = _whole(order, q, sigma) if isinstance(order, int) else _broken(order, q, sigma)
    return max(0.0, log_sum) / (order - 1)


def _whole(order: int, q: float, sigma: float) -> float:
    """Equation 9 for whole orders: the log of the binomial sum."""
    terms = [
        _log_binomial(order, k)
        + k * math.log(q)
        + (order - k) * math.log1p(-q)
        + (k * k - k) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    return largest + math.log(math.fsum(math.exp(term - largest) for term in terms))


def _broken(order: float, q: float, sigma: float) -> float:
    """As `_whole`, of any order: the binomial series on both sides of where the two distributions
    that are mixed weigh the same (section 3.3), until its terms no longer count. Far ones fall
    slowly, in turns above and below 0: cut behind one above, they are more than all of them."""
    middle = sigma**2 * math.log(1 / q - 1) + 0.5
    width = math.sqrt(2) * sigma
    log_q, log_rest = math.log(q), math.log1p(-q)
    signs, terms = [], []
    log_coefficient, sign, k = 0.0, 1.0, 0
    while True:
        other = order - k
        below = k * log_q + other * log_rest + (k * k - k) / (2 * sigma**2)
        above = other * log_q + k * log_rest + (other * other - other) / (2 * sigma**2)
        below += log_coefficient + _log_erfc((k - middle) / width) - math.log(2)
        above += log_coefficient + _log_erfc((middle - other) / width) - math.log(2)
        signs += [sign, sign]
        terms += [below, above]
        if max(below, above) < NEGLIGIBLE or (k >= MAX_TERMS and sign > 0):
            break
        log_coefficient += math.log(abs(other) / (k + 1))
        sign, k = math.copysign(sign, sign * other), k + 1
    largest = max(terms)
    parts = (s * math.exp(term - largest) for s, term in zip(signs, terms, strict=True))
    return largest + math.log(math.fsum(parts))


def _log_erfc(x: float) -> float:
    if x < FAR:
        return math.log(math.erfc(x))
    part = 1 / (2 * x * x)  # of the asymptotic series: erfc itself is too small for a float
    return (
        -x * x - math.log(x * math.sqrt(math.pi)) + math.log1p(-part + 3 * part**2 - 15 * part**3)
    )


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
