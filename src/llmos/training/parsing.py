"""Learning the trees of sentences: the likelihood of each word's head, relation, part of speech."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.models.biaffine import BiaffineForDependencyParsing
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples, Measures, masked_inputs


class _Parser(Protocol):
    def parse_loss(
        self,
        input_ids: Tensor,
        heads: Tensor,
        relations: Tensor,
        tags: Tensor,
        attention_mask: Tensor | None = None,
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees(Batch):
    """Sentences and their trees; labels are the heads of words.

    Attributes:
        relations, tags: of words, ``[rows, words]``.
    """

    relations: Tensor
    tags: Tensor

    def to(self, device: torch.device) -> Self:
        moved = cast(Self, Batch.to(self, device))
        relations, tags = self.relations.to(device), self.tags.to(device)
        return replace(moved, relations=relations, tags=tags)

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """Minus the log-probability of all that is told of the words, in nats."""
        return cast(_Parser, model).parse_loss(
            heads=self.labels, relations=self.relations, tags=self.tags, **self.inputs
        )

    def measures(self, model: PreTrainedModel) -> Measures:
        """The loss, and the shares of words with the right head, and with its relation too."""
        out, is_word = model(**self.inputs), self.labels != IGNORE
        has_head = (out.heads == self.labels) & is_word
        is_right = has_head & (out.relations.argmax(-1) == self.relations)
        count = self.num_labels
        loss = float(self.loss_sum(model))
        return {
            "loss": (loss, count),
            "uas": (int(has_head.sum()), count),
            "las": (int(is_right.sum()), count),
        }


@dataclass(frozen=True, slots=True)
class ParsedSentences(Examples):
    """A tree over the words of each text."""

    pad_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        heads, relations, tags = (
            torch.from_numpy(columns[name].padded(rows, IGNORE)[0])
            for name in ("heads", "relations", "tags")
        )
        inputs = masked_inputs(columns, rows, self.pad_id)
        return Trees(inputs, heads, relations=relations, tags=tags)


def is_parser(model: PreTrainedModel) -> bool:
    """Whether a network makes trees."""
    return isinstance(model, BiaffineForDependencyParsing)
