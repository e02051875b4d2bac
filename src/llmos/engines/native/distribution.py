"""One row's distribution on the CPU: what its settings leave of it, and the token a number picks.

Many passes over a large vocabulary are what sampling costs, so each case does as few as it can,
in float32 where all of the vocabulary is summed and in float64 where few tokens are left. A row is
computed by itself, so its result cannot depend on the batch. ``device_distribution`` does the same
for all rows at once on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmos.types import SamplingParams

Scores = NDArray[np.float32]
Ids = NDArray[np.int64]
Weights = NDArray[np.floating[Any]]

FIRST_CANDIDATES = 1024
"""Looked at first when only top-p is given; all tokens only where that is not enough."""
MIN_TEMPERATURE = 1e-6
"""Below it a distribution is its likeliest token, and float32 would divide by zero."""
_GROUP = 64
_BLOCK = 128


def pick(scores: Scores, params: SamplingParams, number: float) -> int:
    """Return the token at ``number`` in [0, 1) of the distribution's cumulative sum in id order.

    ``scores`` ``[vocab]`` may hold -inf (impossible tokens), but not only that.
    """

    def target_of(total: float) -> float:  # rounding must not reach the total, past the last token
        return min(number * total, math.nextafter(total, 0.0))

    if not (0 < params.top_k < scores.size or params.top_p < 1 or params.min_p > 0):
        return _locate(_relative(scores, params.temperature), target_of, "right")
    ids, weights = kept(scores, params)
    return int(ids[_locate(weights, target_of, "right")])


def kept(scores: Scores, params: SamplingParams) -> tuple[Ids, Weights]:
    """Return the ids, ascending, that temperature, top-k, top-p and min-p leave, and their weights.

    A weight is a probability times a constant. Tokens that tie with the last one kept are kept
    too. Top-p keeps a token while the mass before it, of the mass that top-k left, is under p
    (Holtzman et al. 2020, section 3.1).
    """
    top, temperature = float(scores.max()), params.temperature
    weights: Weights
    mass: float | None = None
    if 0 < params.top_k < scores.size:
        ids = largest(scores, params.top_k)
        weights = _exact(scores[ids], top, temperature)
        mass = float(weights.sum())
    elif params.top_p < 1:
        every = _relative(scores, temperature)
        mass = float(every.sum(dtype=np.float64))
        ids = largest(scores, FIRST_CANDIDATES)
        weights = _exact(scores[ids], top, temperature)
        if weights.sum() < params.top_p * mass:
            ids, weights = np.arange(scores.size), every
    else:  # a little below the bound: the weights decide
        ids = np.flatnonzero(scores >= _min_p_bound(top, params))
        weights = _exact(scores[ids], top, temperature)
    least = params.min_p
    if params.top_p < 1 and mass is not None:
        least = max(least, _top_p_bound(weights, params.top_p * mass))
    is_kept = weights >= least
    return ids[is_kept], weights[is_kept]


def largest(scores: Scores, count: int) -> Ids:
    """Return the ids, ascending, of the ``count`` largest scores and of those that tie with the
    last of them; impossible tokens (-inf) are never among them."""
    candidates = np.flatnonzero(scores > max(_lower_bound(scores, count), -np.inf))
    if candidates.size <= count:
        return candidates
    values = scores[candidates]
    last = np.partition(values, values.size - count)[values.size - count]
    found: Ids = candidates[values >= last]
    return found


def log_mass(scores: Scores) -> float:
    """Return the logarithm of the sum of the scores' exponentials."""
    return float(scores.max()) + math.log(_relative(scores, 1.0).sum(dtype=np.float64))


def _lower_bound(scores: Scores, count: int) -> float:
    """Return a number below the ``count``-th largest score: from the maxima of small groups, a
    single pass, instead of a selection among all."""
    num_groups = scores.size // _GROUP
    if not 0 < count <= num_groups:
        return -math.inf
    maxima = scores[: num_groups * _GROUP].reshape(_GROUP, num_groups).max(axis=0)
    bound = np.partition(maxima, num_groups - count)[num_groups - count]
    return float(np.nextafter(bound, np.float32(-np.inf)))


def _exact(scores: Scores, top: float, temperature: float) -> NDArray[np.float64]:
    """Return the weights of a few tokens; that of a token with score ``top`` is 1."""
    with np.errstate(over="ignore"):
        weights: NDArray[np.float64] = np.exp((scores.astype(np.float64) - top) / temperature)
    return weights


def _relative(scores: Scores, temperature: float) -> Scores:
    """Return every token's weight, in float32; that of the likeliest is 1."""
    with np.errstate(over="ignore"):
        weights: Scores = scores - scores.max()
        if temperature != 1:
            weights /= np.float32(temperature)
        np.exp(weights, out=weights)
    return weights


def _min_p_bound(top: float, params: SamplingParams) -> float:
    if params.min_p <= 0:
        return -math.inf
    bound = top + params.temperature * math.log(params.min_p)
    return bound - 1e-4 * max(1.0, params.temperature, abs(top))


def _top_p_bound(weights: Weights, target: float) -> float:
    """Return the smallest weight kept: that of the first tokens, by weight, to reach ``target``."""
    falling = np.sort(weights)[::-1]
    return float(falling[_locate(falling, lambda total: min(target, total), "left")])


def _locate(
    weights: Weights, target_of: Callable[[float], float], side: Literal["left", "right"]
) -> int:
    """Return where the cumulative sum of ``weights`` reaches (left) or passes (right) a target,
    given their total. Sums of blocks first, then the one block: a single pass over many weights.
    """
    starts = np.arange(0, weights.size, _BLOCK)
    cdf = np.add.reduceat(weights, starts, dtype=np.float64).cumsum()
    target = target_of(float(cdf[-1]))
    block = int(np.searchsorted(cdf, target, side=side))
    before = float(cdf[block - 1]) if block else 0.0
    start = block * _BLOCK
    inner = weights[start : start + _BLOCK].cumsum(dtype=np.float64)
    # The two ways to sum a block differ by rounding, which must not lead past its last weight.
    last = int(np.searchsorted(inner, inner[-1], side="left"))
    return start + min(int(np.searchsorted(inner, target - before, side=side)), last)
