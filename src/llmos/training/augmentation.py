"""Small changes of a text before it is learned from: tokens left out, and moved a few places.

Word dropout and local shuffling (Lample et al., arXiv:1711.00043, section 2.3), so that a model
hangs on no single token and not on their exact order. What is changed is a pure function of seed,
step and row; what a model is tested on is read as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from llmos.data.encoding import Columns, IntArray, Ragged
from llmos.training.objectives import Batch, Objective
from llmos.training.recipe_sections import RobustSection
from llmos.training.sampling import Draws, Sampler, random_bits

DROPS, MOVES = 1 << 20, (1 << 20) + 1
"""Streams of random numbers, beside those of the sampler and of the steps."""


@dataclass(frozen=True, slots=True)
class Augmented:
    """An objective whose ``input_ids`` are changed in training; targets and labels stay.

    Attributes:
        drop: probability with which a token is left out.
        shuffle: places by which a token moves at most.
        fixed: ids of special tokens, which stay where they are.
    """

    objective: Objective
    drop: float
    shuffle: int
    fixed: IntArray
    seed: int

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        plain = self.objective.sampler(columns, batch_size, seed)
        return Draws(plain, len(columns["input_ids"]))

    def all_rows(self, columns: Columns) -> IntArray:
        return self.objective.all_rows(columns)

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        """The objective's batch; rows whose number holds no step (see `Draws`) are read as they
        are."""
        count = len(columns["input_ids"])
        taken = {
            name: Ragged.of(column.row(int(row) % count) for row in rows)
            for name, column in columns.items()
        }
        taken["input_ids"] = Ragged.of(
            self._changed(text, int(row)) if row >= count else text
            for text, row in zip(map(taken["input_ids"].row, range(len(rows))), rows, strict=True)
        )
        return self.objective.batch(taken, np.arange(len(rows)))

    def _changed(self, text: npt.NDArray[np.int32], row: int) -> npt.NDArray[np.int32]:
        """Return what is read of a text; a token of it at least."""
        stays = np.isin(text, self.fixed)
        drawn = np.where(stays, -1.0, _uniform(self.seed, row, DROPS, len(text)))
        kept_anyway = drawn == drawn.max()
        read: npt.NDArray[np.int32] = text[stays | (drawn >= self.drop) | kept_anyway]
        places = np.flatnonzero(~np.isin(read, self.fixed))
        # A token at i comes behind the one at j only if i + U(0, k + 1) does: it moves k at most.
        moved = np.arange(len(places)) + (self.shuffle + 1) * _uniform(
            self.seed, row, MOVES, len(places)
        )
        read[places] = read[places[np.argsort(moved, kind="stable")]]
        return read


def augmented(
    objective: Objective, section: RobustSection, tokenizer: Tokenizer, seed: int
) -> Augmented:
    """Return the objective with texts changed as a recipe's ``robust`` section says."""
    added = tokenizer.get_added_tokens_decoder()
    fixed = np.array([id for id, token in added.items() if token.special], dtype=np.int64)
    return Augmented(objective, section.drop, section.shuffle, fixed, seed)


def _uniform(seed: int, row: int, stream: int, count: int) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1) that depend on the arguments alone."""
    bits = random_bits(seed, row, stream, count) >> np.uint64(11)
    uniform: npt.NDArray[np.float64] = bits.astype(np.float64) * 2.0**-53
    return uniform
