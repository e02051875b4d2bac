"""Span corruption: spans of a text are taken out, and written again by the network that read the
rest (Raffel et al., 2020, arXiv:1910.10683, section 3.1.4).

Of the text's tokens a share is taken out, in spans of a mean length, none next to another. In place
of each stands a sentinel of its own; the target is each sentinel and its span, one more sentinel,
and the end. Numbers that are no whole ones are rounded up or down by chance, so that they hold in
the mean of short texts, too. Which spans they are is drawn anew each time a row comes, by a pure
function of seed, step and row; a validation always sees the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray, Ragged
from llmos.data.tokenizers import Specials
from llmos.errors import RecipeError
from llmos.models.sentinels import sentinel, sentinel_ids
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples, Measures, SequencePairs, cross_entropy_sum
from llmos.training.recipe import Recipe
from llmos.training.recipe_sections import SpansSection
from llmos.training.sampling import Draws, ExampleSampler, Sampler, random_bits

SPANS = 6
"""A stream of random numbers, beside those of samplers, masks and mixtures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupted(Batch):
    """Labels are sentinels and what they stand for.

    Attributes:
        is_text: which of them are of the text, ``[rows, length]``.
    """

    is_text: Tensor

    def measures(self, model: PreTrainedModel) -> Measures:
        """The loss, and the share of the spans' tokens that the model finds likeliest, each behind
        those before it."""
        logits, labels = self.labelled_logits(model)
        is_text = self.is_text.flatten().to(labels.device)
        right = int((logits.argmax(-1) == labels)[is_text].sum())
        loss = float(cross_entropy_sum(logits, labels))
        return {"loss": (loss, self.num_labels), "accuracy": (right, int(is_text.sum()))}


@dataclass(frozen=True, slots=True)
class CorruptedTexts(Examples):
    """Rows of texts, of which spans are to be told.

    A row's number may hold that of its step (see `Draws`); one that does not is corrupted as no
    step of training corrupts it.
    """

    section: SpansSection
    sentinels: tuple[int, ...]
    pairs: SequencePairs
    end_id: int
    seed: int

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        lengths = columns["input_ids"].lengths
        return Draws(ExampleSampler(lengths, batch_size, seed), len(lengths))

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        texts, count = columns["input_ids"], len(columns["input_ids"])
        sources, targets = [], []
        for row in rows.tolist():
            is_text = columns["is_text"].row(row % count) == 1
            source, target = self._corrupted(texts.row(row % count), is_text, row)
            sources.append(source)
            targets.append(target)
        made = {"input_ids": Ragged.of(sources), "target_ids": Ragged.of(targets)}
        batch = self.pairs.batch(made, np.arange(len(rows)))
        others = torch.tensor([*self.sentinels, self.end_id, IGNORE])
        is_text = torch.isin(batch.labels, others, invert=True)
        return Corrupted(batch.inputs, batch.labels, is_text=is_text)

    def _corrupted(
        self, ids: np.ndarray, is_text: np.ndarray, row: int
    ) -> tuple[list[int], list[int]]:
        """Return what is read of a row, and what is to be written."""
        places = np.flatnonzero(is_text)
        bits = random_bits(self.seed, row, SPANS, len(places) + 2)
        spans = drawn_spans(bits, len(places), self.section, len(self.sentinels) - 1)
        source: list[int] = []
        target: list[int] = []
        last = 0
        for (start, length), name in zip(spans, self.sentinels, strict=False):
            first, end = int(places[start]), int(places[start + length - 1]) + 1
            source += [*ids[last:first].tolist(), name]
            target += [name, *ids[first:end].tolist()]
            last = end
        return [*source, *ids[last:].tolist()], [*target, self.sentinels[len(spans)], self.end_id]


def drawn_spans(
    bits: np.ndarray, num_tokens: int, section: SpansSection, most: int
) -> list[tuple[int, int]]:
    """Return the start and length of each span that is taken out of a text, in order.

    All ways to cut what is taken out into spans, and to place these with a token or more between
    each two, are as likely. At least one token is taken out, in no more spans than leave the target
    as long as the text at most.

    Args:
        bits: random, ``num_tokens + 2`` of them.
        most: spans that there are sentinels for.
    """
    shares = (bits[:2] >> np.uint64(11)) / 2**53
    num_out = int(np.floor(section.share * num_tokens + shares[0]))
    num_out = min(max(num_out, 1), max(num_tokens - 1, 1))
    kept = num_tokens - num_out
    count = int(np.floor(num_out / section.mean_length + shares[1]))
    count = max(1, min(count, num_out, kept - 1, most))
    cuts = 1 + np.sort(np.argsort(bits[2 : num_out + 1], kind="stable")[: count - 1])
    lengths = np.diff([0, *cuts.tolist(), num_out])
    before = np.sort(np.argsort(bits[num_out + 1 :], kind="stable")[:count])
    starts = before + np.cumsum(lengths) - lengths
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


def sentinels_of(recipe: Recipe) -> tuple[str, ...]:
    """Return the sentinels of a tokenizer of its own: as many as its longest texts can need."""
    section = recipe.spans or SpansSection()
    num_out = int(section.share * recipe.max_tokens) + 1
    most = min(num_out, int(num_out / section.mean_length) + 1)
    return tuple(sentinel(number) for number in range(most + 1))


def corrupted_texts(
    recipe: Recipe, model: PreTrainedModel, tokenizer: Tokenizer, specials: Specials
) -> CorruptedTexts:
    """Return the objective for this model.

    Raises:
        RecipeError: the tokenizer of the base has no sentinels, or no end token.
    """
    sentinels, end_id = sentinel_ids(tokenizer.token_to_id), tokenizer.token_to_id(specials.eos)
    if len(sentinels) < 2 or end_id is None:
        raise RecipeError(
            f"objective span_lm needs sentinels ({sentinel(0)}, {sentinel(1)}, …) and an end "
            f"token, which the tokenizer of {recipe.model.base} lacks: choose another base"
        )
    config = model.config
    pairs = SequencePairs(config.decoder_start_token_id, config.pad_token_id or 0)
    return CorruptedTexts(recipe.spans or SpansSection(), sentinels, pairs, end_id, recipe.seed)
