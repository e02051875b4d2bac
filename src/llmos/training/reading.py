"""Objectives of encoders beyond classes and tags: spans that answer, texts alike, numbers.

Masked language modelling is in `masking`, that of spans in `corruption`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.data.tokenizers import Specials
from llmos.engines.embedding import pooled
from llmos.errors import RecipeError
from llmos.training.corruption import corrupted_texts
from llmos.training.masking import MaskedTexts
from llmos.training.objectives import Batch, Examples, Objective, masked_inputs
from llmos.training.recipe import Recipe
from llmos.training.recipe_sections import ContrastiveSection

READERS = frozenset({"fill_mask", "answer", "embed", "rate"})


def reading_objective(
    recipe: Recipe, model: PreTrainedModel, tokenizer: Tokenizer, specials: Specials
) -> Objective:
    """How a task of an encoder makes batches for this model.

    Raises:
        RecipeError: the tokenizer has no mask to hide tokens behind.
    """
    pad = model.config.pad_token_id or 0
    match recipe.task:
        case "fill_mask" if recipe.objective == "span_lm":
            return corrupted_texts(recipe, model, tokenizer, specials)
        case "fill_mask":
            mask_id = tokenizer.token_to_id(specials.mask) if specials.mask else None
            if mask_id is None:
                raise RecipeError(f"{recipe.model.base} has no mask token: it cannot fill masks")
            return MaskedTexts(mask_id, pad, tokenizer.get_vocab_size(), recipe.seed)
        case "answer":
            return Questions(pad, takes_types(model))
        case "embed":
            section = recipe.contrastive or ContrastiveSection()
            return AlikeTexts(pad, section.temperature, section.pooling)
        case _:
            return RatedTexts(pad)


def takes_types(model: PreTrainedModel) -> bool:
    """Whether a network tells two texts apart by type ids."""
    return (getattr(model.config, "type_vocab_size", 0) or 0) > 1


@dataclass(frozen=True, slots=True)
class Spans(Batch):
    """Labels are the tokens that answers begin with, then those that they end with."""

    def labelled_logits(self, model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Logits ``[2 * rows, length]`` of the start, then of the end, at each token that is."""
        out = model(**self.inputs)
        logits = torch.cat([out.start_logits, out.end_logits])
        is_real = self.inputs["attention_mask"].bool().repeat(2, 1)
        return logits.masked_fill(~is_real, torch.finfo(logits.dtype).min), self.labels


@dataclass(frozen=True, slots=True)
class Questions(Examples):
    """A question beside a window of its context, and where in it the answer is."""

    pad_id: int
    takes_types: bool

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        inputs = masked_inputs(columns, rows, self.pad_id)
        if self.takes_types:
            inputs["token_type_ids"] = torch.from_numpy(columns["type_ids"].padded(rows, 0)[0])
        spans, _ = columns["span"].padded(rows, 0)
        return Spans(inputs, torch.from_numpy(spans.T.reshape(-1).copy()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates(Batch):
    """Texts in one batch: the anchors, their positives, and negatives.

    The loss is InfoNCE (van den Oord et al., 2018, arXiv:1807.03748, equation 4): of the cosines
    of an anchor with all that are no anchors, over the temperature, the positive's should be
    highest.

    Attributes:
        lengths: tokens of each text.
        is_same: ``[anchors, candidates]``, where a candidate that is not the positive is the same
            text as that or as the anchor.
    """

    lengths: list[int]
    is_same: Tensor
    temperature: float
    pooling: str

    def labelled_logits(self, model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Logits ``[anchors, candidates]``; the label of each is its positive."""
        hidden = model(**self.inputs).last_hidden_state
        vectors = F.normalize(pooled(hidden, self.lengths, self.pooling), dim=-1)
        anchors, candidates = vectors[: len(self.labels)], vectors[len(self.labels) :]
        logits = anchors @ candidates.T / self.temperature
        others = self.is_same.to(logits.device)
        return logits.masked_fill(others, torch.finfo(logits.dtype).min), self.labels


@dataclass(frozen=True, slots=True)
class AlikeTexts(Examples):
    """Two texts that belong together; those of the other rows of a batch do not, nor does a
    negative of any row, unless it is the same text."""

    pad_id: int
    temperature: float
    pooling: str

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        texts = [columns["input_ids"].row(row) for row in rows]
        positives = [columns["positive_ids"].row(row) for row in rows]
        negatives = [columns["negative_ids"].row(row) for row in rows]
        candidates = [*positives, *(text for text in negatives if len(text))]
        texts += candidates
        lengths = [len(text) for text in texts]
        ids = np.full((len(texts), max(lengths)), self.pad_id, dtype=np.int64)
        for place, text in enumerate(texts):
            ids[place, : len(text)] = text
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask * 1)}
        names = [text.tobytes() for text in texts]
        same = np.array(
            [
                [name in (anchor, positive) for name in names[len(rows) :]]
                for anchor, positive in zip(names, names[len(rows) :], strict=False)
            ][: len(rows)]
        )
        np.fill_diagonal(same, False)
        return Candidates(
            inputs,
            torch.arange(len(rows)),
            lengths=lengths,
            is_same=torch.from_numpy(same),
            temperature=self.temperature,
            pooling=self.pooling,
        )


@dataclass(frozen=True, slots=True)
class Numbers(Batch):
    """Labels are numbers, one for each row."""

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """The squared errors, summed over rows."""
        numbers: Tensor = model(**self.inputs).logits[:, 0].float()
        return (numbers - self.labels).square().sum()


@dataclass(frozen=True, slots=True)
class RatedTexts(Examples):
    """One number per text."""

    pad_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        bits, _ = columns["score"].padded(rows, 0)
        scores = torch.from_numpy(bits[:, 0].astype(np.int32).view(np.float32))
        return Numbers(masked_inputs(columns, rows, self.pad_id), scores)
