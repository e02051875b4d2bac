"""Several tasks of one encoder: whose batch a step takes, and how good it is at all of them.

All batches of a step are of one task. Which, hangs on seed and step alone, by the shares of the
tasks' weights; each task goes through its own examples, epoch after epoch, as if it were alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from llmos.data.encoding import Columns, IntArray
from llmos.training.objectives import Batch, Objective
from llmos.training.sampling import Sampler, plain_rows, random_bits

TASKS = 5
"""A stream of random numbers, beside those of the samplers and the masks."""


@dataclass(frozen=True, slots=True, eq=False)
class MixedSampler:
    """The rows of a step's task; those of the task number ``t`` of ``n`` as ``row * n + t``.

    Attributes:
        samplers: of each task.
        turns: ``[steps]``, which task's turn each step is.
        accumulate: batches of a step.
    """

    samplers: Mapping[str, Sampler]
    turns: IntArray
    accumulate: int

    def rows(self, step: int) -> IntArray:
        """Return the rows of the batch number ``step``."""
        turn, place = divmod(step, self.accumulate)
        task = int(self.turns[turn])
        earlier = int((self.turns[:turn] == task).sum())
        own = [*self.samplers.values()][task]
        rows = own.rows(earlier * self.accumulate + place)
        return rows * len(self.samplers) + task


def turns_of(seed: int, steps: int, weights: Sequence[float]) -> IntArray:
    """Return which task's turn each of the first steps is, however many there will be."""
    shares = np.cumsum(weights) / sum(weights)
    drawn = (random_bits(seed, 0, TASKS, steps) >> np.uint64(11)) / 2**53
    return np.searchsorted(shares[:-1], drawn, side="right").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Mixture:
    """The objectives of several tasks, whose columns are called ``task.column``.

    Attributes:
        steps: of the whole training.
        accumulate: batches of a step.
    """

    objectives: Mapping[str, Objective]
    weights: tuple[float, ...]
    steps: int
    accumulate: int

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        """Return what tells the rows of each batch."""
        samplers = {
            task: objective.sampler(columns_of(task, columns), batch_size, seed)
            for task, objective in self.objectives.items()
        }
        turns = turns_of(seed, self.steps, self.weights)
        return MixedSampler(samplers, turns, self.accumulate)

    def all_rows(self, columns: Columns) -> IntArray:
        """Return every row once, task after task."""
        return np.concatenate(self.by_task(columns))

    def by_task(self, columns: Columns) -> list[IntArray]:
        """Return every row of each task once."""
        rows = [
            objective.all_rows(columns_of(task, columns))
            for task, objective in self.objectives.items()
        ]
        return [own * len(rows) + place for place, own in enumerate(rows)]

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        """Return a batch of one task, the rows all being its own."""
        number, places = int(rows[0]) % len(self.objectives), rows // len(self.objectives)
        task, objective = list(self.objectives.items())[number]
        batch = objective.batch(columns_of(task, columns), places)
        return replace(batch, inputs={**batch.inputs, "task": task})

    def joint(self, losses: Sequence[float]) -> float:
        """Return the mean of the tasks' losses, each counting as much as it has of the training."""
        weighted = zip(self.weights, losses, strict=True)
        return sum(weight * loss for weight, loss in weighted) / sum(self.weights)


def named(sampler: Sampler, rows: IntArray) -> list[str]:
    """Return how people are told of rows that a sampler gave: ``3``, or ``3 of entities``."""
    if not isinstance(sampler, MixedSampler):
        return [str(row) for row in plain_rows(sampler, rows)]
    count = len(sampler.samplers)
    task, own = [*sampler.samplers.items()][int(rows[0]) % count]
    return [f"{row} of {task}" for row in plain_rows(own, rows // count)]


def columns_of(task: str, columns: Columns) -> Columns:
    """Return the columns of one task of several."""
    prefix = f"{task}."
    return {
        name.removeprefix(prefix): column
        for name, column in columns.items()
        if name.startswith(prefix)
    }
