"""Which rows a step takes: a pure function of (seed, step), so that resuming needs no state.

Rows form one endless sequence, epoch after epoch, each epoch its own Philox permutation. Step `s`
takes rows `s * batch_size …`; batches may be regrouped by length inside a window of steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from llmos.data.encoding import IntArray

WINDOW_STEPS = 64
ORDER, PHASE, BATCHES = 0, 1, 2


class Sampler(Protocol):
    """Tells which rows (example numbers or stream positions) step ``step`` takes."""

    def rows(self, step: int) -> IntArray: ...


@dataclass(frozen=True, eq=False)
class ExampleSampler:
    """Batches of example numbers, each example once an epoch, alike lengths together.

    A window of 64 batches is sorted by length, cut into batches, and the batches are shuffled:
    short rows do not pad up to long ones, and batches still differ from epoch to epoch.
    """

    lengths: IntArray
    batch_size: int
    seed: int

    def rows(self, step: int) -> IntArray:
        window, place = divmod(step, WINDOW_STEPS)
        batch: IntArray = _batches(self, window)[place]
        return batch


@dataclass(frozen=True, slots=True)
class EpochSampler:
    """Batches of example numbers, each example once an epoch, in an order of the epoch's own: of a
    few examples and steps none is missed, as it may be where alike lengths go together."""

    count: int
    batch_size: int
    seed: int

    def rows(self, step: int) -> IntArray:
        epochs, places = _epochs(step * self.batch_size, self.batch_size, self.count)
        orders = [permutation(self.seed, int(epoch), self.count) for epoch in epochs]
        rows = [order[place] for order, place in zip(orders, places, strict=True)]
        return np.asarray(rows, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class StreamSampler:
    """Start positions of blocks of ``block_size`` tokens that tile a stream.

    Each epoch covers the stream once, from a phase of its own, in an order of its own. A block
    needs one token more than its size, since the labels are the tokens shifted by one.
    """

    num_tokens: int
    block_size: int
    batch_size: int
    seed: int

    def rows(self, step: int) -> IntArray:
        blocks = max(1, (self.num_tokens - self.block_size) // self.block_size)
        epochs, places = _epochs(step * self.batch_size, self.batch_size, blocks)
        slack = min(self.num_tokens - blocks * self.block_size, self.block_size)
        starts = np.empty(self.batch_size, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            phase = int(random_bits(self.seed, int(epoch), PHASE, 1)[0]) % slack
            order = permutation(self.seed, int(epoch), blocks)
            starts[here] = phase + order[places[here]] * self.block_size
        return starts


@dataclass(frozen=True, slots=True)
class Draws:
    """The rows of a sampler, each with the number of its step: ``row + (1 + step) * num_rows``, for
    what is drawn anew each time a row comes."""

    sampler: Sampler
    num_rows: int

    def rows(self, step: int) -> IntArray:
        return self.sampler.rows(step) + (1 + step) * self.num_rows


def plain_rows(sampler: Sampler, rows: IntArray) -> IntArray:
    """Rows that a sampler gave, without the numbers of their steps."""
    return rows % sampler.num_rows if isinstance(sampler, Draws) else rows


def random_bits(seed: int, counter: int, stream: int, count: int) -> np.ndarray:
    """``count`` uniform 64-bit numbers that depend on the arguments alone (Philox 4x64)."""
    philox = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=counter << 64)
    return np.atleast_1d(philox.random_raw(count))


@lru_cache(maxsize=16)
def permutation(seed: int, epoch: int, count: int) -> IntArray:
    """The order of ``count`` rows in an epoch."""
    return np.argsort(random_bits(seed, epoch, ORDER, count), kind="stable").astype(np.int64)


@lru_cache(maxsize=16)
def _batches(sampler: ExampleSampler, window: int) -> IntArray:
    """The batches of a window, ``[WINDOW_STEPS, batch_size]``."""
    size, count = sampler.batch_size, len(sampler.lengths)
    epochs, places = _epochs(window * WINDOW_STEPS * size, WINDOW_STEPS * size, count)
    rows = np.empty(len(places), dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = permutation(sampler.seed, int(epoch), count)[places[here]]
    by_length = rows[np.argsort(sampler.lengths[rows], kind="stable")]
    order = np.argsort(random_bits(sampler.seed, window, BATCHES, WINDOW_STEPS), kind="stable")
    batches: IntArray = by_length.reshape(WINDOW_STEPS, size)[order]
    return batches


def _epochs(first: int, count: int, per_epoch: int) -> tuple[IntArray, IntArray]:
    """Epoch and place in it of ``count`` rows of the endless sequence from ``first``."""
    sequence = np.arange(first, first + count, dtype=np.int64)
    return sequence // per_epoch, sequence % per_epoch
