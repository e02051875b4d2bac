"""word2vec: skip-gram and CBOW with negative sampling (Mikolov et al., arXiv:1310.4546).

A word predicts each of those near it (skip-gram), or their mean predicts the word (CBOW). As in the
authors' program, windows are narrowed by chance, frequent words thinned out, and negatives drawn by
the power 3/4 of their frequency. A few words in a row share their negatives, as those of a window
do in Ji et al., arXiv:1604.04661: their scores and gradients are products of matrices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, softplus

from llmos.data.encoding import IntArray, Ragged
from llmos.training.recipe_sections import VectorsSection
from llmos.training.vectors.windows import (
    Text,
    chunks,
    generator,
    known_words,
    pairs,
    thinned,
)

POWER = 0.75
LAST_RATE = 1e-4
"""Of the learning rate, what is left of it at the end."""
SPREAD = 4.0
"""Over a vector's size, the range of its first numbers: four times the authors', so that few texts
are enough for words to part."""
LOSS_EVERY = 8
"""Batches of which one is asked for its loss."""
LARGEST_MOVE = 1.5
"""Of the learning rate times the pairs of the most frequent word in a batch: twice as much, and the
words that move at once push each other further and further."""
GROUP = 16
"""Words in a row that share their negatives, which are as many, or more where more are asked for;
each counts for so much that together they count as those asked for."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Words in the order of a text, and those near each.

    Attributes:
        words: ``[n]``, whole groups: where the text has no more, filled up by words without any
            near them.
        near: ``[pairs]``, those near the first of ``words`` first.
        places: ``[pairs]``, where in ``words`` the one is that each is near to.
        starts: ``[n + 1]``, where in ``near`` those of each word begin, and where the last's end.
        negatives: ``[groups, drawn]``.
    """

    words: Tensor
    near: Tensor
    places: Tensor
    starts: Tensor
    negatives: Tensor

    def groups(self, first: int, last: int) -> Windows:
        """Return those of some groups."""
        start, stop = first * GROUP, min(last * GROUP, len(self.words))
        begin, end = int(self.starts[start]), int(self.starts[stop])
        return Windows(
            self.words[start:stop],
            self.near[begin:end],
            self.places[begin:end] - start,
            self.starts[start : stop + 1] - begin,
            self.negatives[first:last],
        )


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What a batch's words are scored with.

    Attributes:
        found: ``[predictions]``, of words that are near.
        mistaken: ``[groups, GROUP, drawn]``, of negatives.
        weights: ``[groups, GROUP, 1]``, for how many predictions each of a word's negatives counts.
    """

    found: Tensor
    mistaken: Tensor
    weights: Tensor

    def loss(self) -> float:
        """Return the mean over predictions of one word and its negatives, in nats."""
        wrong = softplus(-self.found).sum() + (softplus(self.mistaken) * self.weights).sum()
        return float(wrong) / max(len(self.found), 1)


class Word2Vec:
    """See ``Learner``.

    Args:
        train: lines of words.
        counts: how often each word of the vocabulary is in ``train``; 0 for special tokens.
        unknown: the id of words that are not in the vocabulary.
        batch_words: that take a step of descent together, in whole groups; fewer where a word is so
            frequent, or the learning rate so high, that it would go astray.
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
        self._is_cbow = section.method == "cbow"
        self._num_drawn = max(GROUP, section.negative)
        self.num_steps = section.epochs * len(self._chunks)
        drawn = np.cumsum(counts**POWER)
        self._cumulative = drawn / drawn[-1]
        self._kept = _kept(counts, section.subsample)
        left = self._kept * counts
        share = float(left.max() / left.sum())
        most = LARGEST_MOVE / (section.learning_rate * share * (section.window + 1))
        self._batch_groups = max(1, int(min(-(-batch_words // GROUP), most // GROUP)))
        random = np.random.Generator(np.random.Philox(key=np.array([seed, 1], dtype=np.uint64)))
        first = (random.random((len(counts), size), dtype=np.float32) - 0.5) * (SPREAD / size)
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
        parts = range(0, len(windows.negatives), self._batch_groups)
        for index, start in enumerate(parts):
            rate = self._rate((number + index / len(parts)) / self.num_steps)
            scores = self._learn(windows.groups(start, start + self._batch_groups), rate)
            if index % LOSS_EVERY == 0:
                losses.append(scores.loss())
        return float(np.mean(losses)) if losses else 0.0

    @torch.no_grad()
    def validation_loss(self) -> float:
        """See ``Learner``."""
        losses = []
        for index, chunk in enumerate(chunks(self._validation)[:5]):
            text = known_words(self._validation, chunk, self._unknown)
            windows = self._windows(text, generator(self._seed, self._section.epochs, index))
            if len(windows.near):
                losses.append(self._learn(windows, None).loss())
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
        count = len(text.words)
        reach = random.integers(1, self._section.window + 1, count)
        places, behind = pairs(text, reach, self._section.window)
        num_groups = -(-count // GROUP)
        words = np.zeros(num_groups * GROUP, dtype=np.int64)
        words[:count] = text.words
        starts = np.zeros(len(words) + 1, dtype=np.int64)
        np.cumsum(np.bincount(places, minlength=len(words)), out=starts[1:])
        drawn = random.random((num_groups, self._num_drawn))
        negatives = np.searchsorted(self._cumulative, drawn, side="right")
        arrays = (words, text.words[places + behind], places, starts, negatives)
        return Windows(*map(torch.from_numpy, arrays))

    def _read(self, batch: Windows) -> Tensor:
        """Return the vectors that predict ``[n, size]``."""
        if not self._is_cbow:
            return self._inputs.index_select(0, batch.words)
        return embedding_bag(
            batch.near, self._inputs, batch.starts, mode="mean", include_last_offset=True
        )

    def _predicted(self, batch: Windows) -> tuple[Tensor, Tensor, Tensor]:
        """Return the words that are predicted, and by which vectors: as a batch's ``near``,
        ``places`` and ``starts``."""
        if not self._is_cbow:
            return batch.near, batch.places, batch.starts
        is_predicted = batch.starts.diff() > 0
        starts = torch.zeros_like(batch.starts)
        starts[1:] = is_predicted.cumsum(0)
        places = is_predicted.nonzero().view(-1)
        return batch.words[places], places, starts

    def _learn(self, batch: Windows, rate: float | None) -> Scores:
        """Take one step of gradient descent, or none; return the scores before it."""
        read = self._read(batch)
        wanted, places, starts = self._predicted(batch)
        noise = self._outputs.index_select(0, batch.negatives.view(-1))
        noise = noise.view(*batch.negatives.shape, -1)
        grouped = read.view(len(noise), GROUP, -1)
        sources = read.index_select(0, places)
        scores = Scores(
            (sources * self._outputs.index_select(0, wanted)).sum(1),
            torch.bmm(grouped, noise.transpose(1, 2)),
            (starts.diff() * (self._section.negative / self._num_drawn)).view(-1, GROUP, 1),
        )
        if rate is None:
            return scores
        pulls = torch.sigmoid(-scores.found).mul_(rate)
        pushes = torch.sigmoid(scores.mistaken).mul_(scores.weights * -rate)
        changes = embedding_bag(
            wanted,
            self._outputs,
            starts,
            mode="sum",
            per_sample_weights=pulls,
            include_last_offset=True,
        )
        changes.view_as(grouped).baddbmm_(pushes, noise)
        noise_changes = torch.bmm(pushes.transpose(1, 2), grouped)
        self._outputs.index_add_(0, wanted, sources.mul_(pulls[:, None]))
        drawn = batch.negatives.view(-1)
        self._outputs.index_add_(0, drawn, noise_changes.view(len(drawn), -1))
        if self._is_cbow:
            # Like the authors' program: each word near moves by all of the change.
            self._inputs.index_add_(0, batch.near, changes.index_select(0, batch.places))
        else:
            self._inputs.index_add_(0, batch.words, changes)
        return scores


def _kept(counts: IntArray, subsample: float) -> npt.NDArray[np.float64]:
    """Return the probability with which each word stays (as in the authors' program): nearly 1 for
    words that are rarer than ``subsample`` of the text."""
    if not subsample:
        return np.ones(len(counts))
    share = np.maximum(counts, 1) / max(int(counts.sum()), 1) / subsample
    kept: npt.NDArray[np.float64] = np.minimum((np.sqrt(share) + 1) / share, 1.0)
    return kept
