"""Learning to label the units of a text so that the labels agree: the likelihood of whole paths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.data.tokenizers import Specials
from llmos.errors import RecipeError
from llmos.models.byte_level import NO_BYTE, byte_level_table
from llmos.models.crf import CrfForTokenClassification
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples, masked_inputs
from llmos.training.recipe import Recipe

TOKEN_BYTES = "token_bytes"  # noqa: S105 - a key of a network's config
UNUSED = ("robust", "distill", "label_smoothing")
"""What is made for labels that are told one by one."""
LEARNED = {"crf": "paths of labels", "biaffine": "trees"}
"""What is not told so, by architecture."""


class _Tagger(Protocol):
    def path_loss(
        self, input_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Paths(Batch):
    """Texts and the labels of their bytes, learned as one path each."""

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """Minus the log-probability of each text's labels, in nats."""
        return cast(_Tagger, model).path_loss(labels=self.labels, **self.inputs)


@dataclass(frozen=True, slots=True)
class LabelPaths(Examples):
    """One label per byte; special tokens are stored as IGNORE."""

    pad_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        labels, _ = columns["labels"].padded(rows, IGNORE)
        return Paths(masked_inputs(columns, rows, self.pad_id), torch.from_numpy(labels))


def is_tagger(model: PreTrainedModel) -> bool:
    """Whether a network scores whole paths of labels."""
    return isinstance(model, CrfForTokenClassification)


def check_tagger(model: PreTrainedModel, recipe: Recipe) -> None:
    """Raise RecipeError where a recipe of a tagger or a parser has what is of no use to one."""
    given = [name for name in UNUSED if getattr(recipe, name)]
    learned = LEARNED.get(model.config.model_type)
    if given and learned:
        raise RecipeError(
            f"architecture {model.config.model_type} learns whole {learned}, and takes no "
            f"{given[0]}: leave it out"
        )


def token_bytes(tokenizer: Tokenizer, specials: Specials, architecture: str) -> list[int]:
    """Return the byte of each token, NO_BYTE of special ones.

    Raises:
        RecipeError: there is a token of several.
    """
    table, special = byte_level_table(), set(specials.all())
    found = []
    for number in range(tokenizer.get_vocab_size()):
        token = tokenizer.id_to_token(number) or ""
        if token not in special and token not in table:
            raise RecipeError(
                f"architecture {architecture} reads bytes: "
                "set tokenizer={kind: byte_bpe, vocab_size: 259}"
            )
        found.append(NO_BYTE if token in special else table[token])
    return found
