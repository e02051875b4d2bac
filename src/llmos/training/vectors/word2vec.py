"""word2vec: skip-gram and CBOW with negative sampling (Mikolov et al., arXiv:1310.4546).

As in the authors' program, the words around predict the one in the middle, each by itself
(skip-gram) or their mean (CBOW); windows are narrowed by chance, frequent words thinned out, and
negatives drawn by the power 3/4 of their frequency. Those of one middle word are shared by all
around it (Ji et al., arXiv:1604.04661), so that a window is a product of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from llmos.data.encoding import IntArray, Ragged
from llmos.training.recipe_sections import VectorsSection
from llmos.training.vectors.windows import (
    Text,
    chunks,
    contexts,
    generator,
    known_words,
    thinned,
)

POWER = 0.75
LAST_RATE = 1e-4
"""Of the learning rate, what is left of it at the end."""
LOSS_EVERY = 8
"""Batches of which one is asked for its loss."""
MAX_SCORE = 8.0
"""Beyond which words are as sure as can be."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of some words: those around ``[n, 2 * window]`` and which are there, and the middle
    word followed by its negatives ``[n, 1 + negatives]``."""

    around: Tensor
    mask: Tensor
    targets: Tensor


class Word2Vec:
    """See ``Learner``.

    Args:
        train: lines of words.
        counts: how often each word of the vocabulary is in ``train``; 0 for special tokens.
        unknown: the id of words that are not in the vocabulary.
    """

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
        self._section, self._seed, self._unknown = section, seed, unknown
        self._train, self._validation = train, validation
        self._chunks = chunks(train)
        self._batch_words = batch_words
        self._is_cbow = section.method == "cbow"
        self.num_steps = section.epochs * len(self._chunks)
        drawn = np.cumsum(counts**POWER)
        self._cumulative = drawn / drawn[-1]
        self._kept = _kept(counts, section.subsample)
        random = np.random.Generator(np.random.Philox(key=np.array([seed, 1], dtype=np.uint64)))
        first = (random.random((len(counts), size), dtype=np.float32) - 0.5) / size
        self.module = nn.Module()
        self.module.register_buffer("inputs", torch.from_numpy(first))
        self.module.register_buffer("outputs", torch.zeros(len(counts), size))

    def words_in(self, number: int) -> int:
        """See ``Learner``."""
        first, last = self._chunks[number % len(self._chunks)]
        return int(self._train.offsets[last] - self._train.offsets[first])

    @torch.no_grad()
    def step(self, number: int) -> float:
        """See ``Learner``."""
        epoch, chunk = divmod(number, len(self._chunks))
        random = generator(self._seed, epoch, chunk)
        text = known_words(self._train, self._chunks[chunk], self._unknown)
        windows = self._windows(thinned(text, self._kept, random), random)
        losses: list[float] = []
        parts = range(0, len(windows.targets), self._batch_words)
        for index, start in enumerate(parts):
            rate = self._rate((number + index / len(parts)) / self.num_steps)
            some = slice(start, start + self._batch_words)
            batch = Windows(windows.around[some], windows.mask[some], windows.targets[some])
            scores = self._learn(batch, rate)
            if index % LOSS_EVERY == 0:
                losses.append(self._loss(scores, batch))
        return float(np.mean(losses)) if losses else 0.0

    @torch.no_grad()
    def validation_loss(self) -> float:
        """See ``Learner``."""
        losses = []
        for index, chunk in enumerate(chunks(self._validation)[:5]):
            text = known_words(self._validation, chunk, self._unknown)
            batch = self._windows(text, generator(self._seed, self._section.epochs, index))
            if len(batch.targets):
                losses.append(self._loss(self._scores(*self._looked_up(batch)), batch))
        return float(np.mean(losses)) if losses else 0.0

    def vectors(self) -> Tensor:
        """See ``Learner``."""
        return self._inputs

    @property
    def _inputs(self) -> Tensor:
        return self.module.get_buffer("inputs")

    @property
    def _outputs(self) -> Tensor:
        return self.module.get_buffer("outputs")

    def _rate(self, done: float) -> float:
        return self._section.learning_rate * max(1 - done, LAST_RATE)

    def _windows(self, text: Text, random: np.random.Generator) -> Windows:
        window = self._section.window
        reach = random.integers(1, window + 1, len(text.words))
        around, near = contexts(text, reach, window)
        drawn = random.random((len(text.words), self._section.negative))
        negatives = np.searchsorted(self._cumulative, drawn, side="right")
        targets = np.concatenate([text.words[:, None], negatives], axis=1)
        has_any = near.any(1)
        return Windows(
            torch.from_numpy(around[has_any]),
            torch.from_numpy(near[has_any].astype(np.float32)),
            torch.from_numpy(targets[has_any]),
        )

    def _looked_up(self, batch: Windows) -> tuple[Tensor, Tensor]:
        """Return the vectors that predict ``[n, predictors, size]`` and those that are predicted
        ``[n, 1 + negatives, size]``."""
        count, size = len(batch.targets), self._inputs.shape[1]
        around = self._inputs.index_select(0, batch.around.view(-1)).view(count, -1, size)
        if self._is_cbow:
            around = torch.bmm(self._shares(batch)[:, None], around)
        targets = self._outputs.index_select(0, batch.targets.view(-1)).view(count, -1, size)
        return around, targets

    def _shares(self, batch: Windows) -> Tensor:
        """Return what each word around is of their mean ``[n, 2 * window]``."""
        return batch.mask / batch.mask.sum(1, keepdim=True)

    def _scores(self, around: Tensor, targets: Tensor) -> Tensor:
        return torch.bmm(around, targets.transpose(1, 2)).clamp_(-MAX_SCORE, MAX_SCORE)

    def _weights(self, batch: Windows) -> Tensor:
        """Return which predictions there are ``[n, predictors, 1 + negatives]``: none of the middle
        word as its own negative, and none by words that are not there."""
        counted = (batch.targets != batch.targets[:, :1]).float()
        counted[:, 0] = 1.0
        if self._is_cbow:
            return counted[:, None]
        return batch.mask[:, :, None] * counted[:, None]

    def _learn(self, batch: Windows, rate: float) -> Tensor:
        """Take one step of gradient descent; return the scores before it."""
        around, targets = self._looked_up(batch)
        scores = self._scores(around, targets)
        errors = torch.sigmoid(scores).neg_()
        errors[..., 0] += 1.0
        errors *= self._weights(batch).mul_(rate)
        changes = torch.bmm(errors, targets)
        size = changes.shape[2]
        if self._is_cbow:
            # Like the authors' program: each word around moves by all of the change.
            changes = batch.mask[:, :, None] * changes
        target_changes = torch.bmm(errors.transpose(1, 2), around)
        self._inputs.index_add_(0, batch.around.view(-1), changes.view(-1, size))
        self._outputs.index_add_(0, batch.targets.view(-1), target_changes.view(-1, size))
        return scores

    def _loss(self, scores: Tensor, batch: Windows) -> float:
        """Return the mean over predictions of one word and its negatives, in nats."""
        signs = -torch.ones(scores.shape[2])
        signs[0] = 1.0
        weights = self._weights(batch)
        losses = nn.functional.softplus(-scores * signs) * weights
        return float(losses.sum() / weights[..., 0].sum())


def _kept(counts: IntArray, subsample: float) -> npt.NDArray[np.float64]:
    """Return the probability with which each word stays (as in the authors' program): nearly 1 for
    words that are rarer than ``subsample`` of the text."""
    if not subsample:
        return np.ones(len(counts))
    share = np.maximum(counts, 1) / max(int(counts.sum()), 1) / subsample
    kept: npt.NDArray[np.float64] = np.minimum((np.sqrt(share) + 1) / share, 1.0)
    return kept
