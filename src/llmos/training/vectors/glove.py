"""GloVe: vectors whose products are the logarithms of how often words meet (Pennington et al.,
2014). A cell of the table counts 1/d for each time two words are d apart in a line, both ways."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llmos.data.encoding import IntArray, Ragged
from llmos.training.recipe_sections import VectorsSection
from llmos.training.sampling import permutation
from llmos.training.vectors.windows import chunks, known_words, pairs

POWER = 0.75
STEP_CELLS = 1 << 16


class Glove:
    """See ``Learner``; arguments as of ``Word2Vec``. The steps are of AdaGrad."""

    def __init__(
        self,
        section: VectorsSection,
        train: Ragged,
        validation: Ragged,
        counts: IntArray,
        unknown: int,
        size: int,
        batch_words: int,
        seed: int,
    ) -> None:
        self._section, self._seed, self._batch_cells = section, seed, batch_words
        vocab_size = len(counts)
        self._keys, self._met = cells(train, vocab_size, section.window, unknown)
        own = cells(validation, vocab_size, section.window, unknown)
        scale = max(float(self._met.sum()), 1.0) / max(float(own[1].sum()), 1.0)
        self._held_back = (own[0], own[1] * scale)
        self._steps_per_epoch = max(1, -(-len(self._keys) // STEP_CELLS))
        self.num_steps = section.epochs * self._steps_per_epoch
        random = np.random.Generator(np.random.Philox(key=np.array([seed, 1], dtype=np.uint64)))
        self.module = nn.Module()
        for name in ("words", "contexts"):
            first = (random.random((vocab_size, size + 1), dtype=np.float32) - 0.5) / (size + 1)
            self.module.register_buffer(name, torch.from_numpy(first))
            self.module.register_buffer(f"{name}_squares", torch.ones(vocab_size, size + 1))

    def words_in(self, number: int) -> int:
        """See ``Learner``."""
        start = number % self._steps_per_epoch * STEP_CELLS
        return min(STEP_CELLS, len(self._keys) - start)

    @torch.no_grad()
    def step(self, number: int) -> float:
        """See ``Learner``."""
        epoch, part = divmod(number, self._steps_per_epoch)
        order = permutation(self._seed, epoch, len(self._keys))
        order = order[part * STEP_CELLS : (part + 1) * STEP_CELLS]
        total = 0.0
        for start in range(0, len(order), self._batch_cells):
            chosen = order[start : start + self._batch_cells]
            total += self._learn(self._keys[chosen], self._met[chosen])
        return total / max(len(order), 1)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """See ``Learner``: of the text held back, its cells scaled to the text that is learned."""
        keys, met = self._held_back
        if not len(keys):
            return 0.0
        _, _, left, right, weights, wanted = self._looked_up(keys, met)
        return float((weights * (self._product(left, right) - wanted) ** 2).sum() / 2) / len(keys)

    def vectors(self) -> Tensor:
        """See ``Learner``: a word's two vectors are added, as they mean the same."""
        return self._table("words")[:, :-1] + self._table("contexts")[:, :-1]

    def _table(self, name: str) -> Tensor:
        return self.module.get_buffer(name)

    def _looked_up(self, keys: IntArray, met: npt.NDArray[np.float64]) -> tuple[Tensor, ...]:
        """Return words and contexts, their vectors, what each cell weighs, and its logarithm."""
        vocab_size = len(self._table("words"))
        words, contexts = (torch.from_numpy(part) for part in np.divmod(keys, vocab_size))
        weights = np.minimum((met / self._section.x_max) ** POWER, 1.0)
        numbers = (torch.from_numpy(part.astype(np.float32)) for part in (weights, np.log(met)))
        left, right = self._table("words")[words], self._table("contexts")[contexts]
        return words, contexts, left, right, *numbers

    @staticmethod
    def _product(left: Tensor, right: Tensor) -> Tensor:
        """Return the products of vectors, whose last number is a bias of its own."""
        return (left[:, :-1] * right[:, :-1]).sum(1) + left[:, -1] + right[:, -1]

    def _learn(self, keys: IntArray, met: npt.NDArray[np.float64]) -> float:
        words, contexts, left, right, weights, wanted = self._looked_up(keys, met)
        errors = self._product(left, right) - wanted
        pulls = (weights * errors)[:, None]
        for name, places, other in (("words", words, right), ("contexts", contexts, left)):
            changes = pulls * torch.cat([other[:, :-1], torch.ones(len(other), 1)], dim=1)
            squares = self._table(f"{name}_squares")
            steps = changes / squares[places].sqrt()
            self._table(name).index_add_(0, places, steps, alpha=-self._section.learning_rate)
            squares.index_add_(0, places, changes.square_())
        return float((weights * errors**2).sum()) / 2


def cells(
    rows: Ragged, vocab_size: int, window: int, unknown: int
) -> tuple[IntArray, npt.NDArray[np.float64]]:
    """Return the cells that are not 0, word times ``vocab_size`` plus context, and their values."""
    keys: IntArray = np.zeros(0, dtype=np.int64)
    met: npt.NDArray[np.float64] = np.zeros(0)
    for chunk in chunks(rows):
        text = known_words(rows, chunk, unknown)
        places, behind = pairs(text, window, window)
        found = text.words[places] * vocab_size + text.words[places + behind]
        keys, cell = np.unique(np.concatenate([keys, found]), return_inverse=True)
        values = np.concatenate([met, 1.0 / np.abs(behind)])
        met = np.bincount(cell, values, len(keys)).astype(np.float64)
    return keys, met
