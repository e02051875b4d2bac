"""Masked language modelling: tokens of a text are hidden, and learned from those around them.

Of the tokens that stand for text 15% are chosen, at least one a row; of those 80% become the mask,
10% any token, and 10% stay (Devlin et al., 2018, arXiv:1810.04805, section 3.1). Which they are is
drawn anew each time a row comes (Liu et al., 2019, arXiv:1907.11692, section 4.1), by a pure
function of seed, step and row; a validation always sees the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples, Measures, cross_entropy_sum
from llmos.training.sampling import Draws, ExampleSampler, Sampler, random_bits

SHARE = 0.15
MASKED, REPLACED = 0.8, 0.1
"""Of those chosen."""
MASKS, TOKENS = 3, 4
"""Streams of random numbers, beside those of the sampler."""


@dataclass(frozen=True, slots=True)
class Masked(Batch):
    """Labels are the tokens that were chosen, IGNORE where none was."""

    def labelled_logits(self, model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Logits ``[chosen tokens, vocabulary]``: the head is only given what has a label."""
        is_label = self.labels != IGNORE

        def keep(_: object, __: object, out: Any) -> Any:
            out["last_hidden_state"] = out.last_hidden_state[is_label][None]
            return out

        hook = model.base_model.register_forward_hook(keep)
        try:
            logits = model(**self.inputs).logits
        finally:
            hook.remove()
        return logits[0], self.labels[is_label]

    def measures(self, model: PreTrainedModel) -> Measures:
        """The loss, and the share of chosen tokens that the model finds likeliest."""
        logits, labels = self.labelled_logits(model)
        right = int((logits.argmax(-1) == labels).sum())
        loss = float(cross_entropy_sum(logits, labels))
        return {"loss": (loss, len(labels)), "accuracy": (right, len(labels))}


@dataclass(frozen=True, slots=True)
class MaskedTexts(Examples):
    """Rows of texts; the labels are the tokens that were chosen, as they were.

    A row's number may hold that of its step (see `Draws`); one that does not is masked as no step
    of training masks it.

    Attributes:
        num_tokens: of the vocabulary.
    """

    mask_id: int
    pad_id: int
    num_tokens: int
    seed: int

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        lengths = columns["input_ids"].lengths
        return Draws(ExampleSampler(lengths, batch_size, seed), len(lengths))

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        plain = rows % len(columns["input_ids"])
        ids, mask = columns["input_ids"].padded(plain, self.pad_id)
        is_text, _ = columns["is_text"].padded(plain, 0)
        labels = np.full(ids.shape, IGNORE, dtype=np.int64)
        for place, row in enumerate(rows):
            length = int(mask[place].sum())
            ids[place, :length], labels[place, :length] = self._masked(
                ids[place, :length], is_text[place, :length] == 1, int(row)
            )
        inputs = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        }
        return Masked(inputs, torch.from_numpy(labels))

    def _masked(self, ids: IntArray, is_text: np.ndarray, row: int) -> tuple[IntArray, IntArray]:
        """Return what is read of a row, and its labels."""
        bits = random_bits(self.seed, row, MASKS, len(ids))
        others = random_bits(self.seed, row, TOKENS, len(ids)) % np.uint64(self.num_tokens)
        first = np.where(is_text, (bits >> np.uint64(32)) / 2**32, 1.0)
        second = (bits & np.uint64(0xFFFFFFFF)) / 2**32
        chosen = (first < SHARE) | ((first == first.min()) & is_text)
        read = np.where(chosen & (second < MASKED), self.mask_id, ids)
        is_replaced = chosen & (second >= MASKED) & (second < MASKED + REPLACED)
        read = np.where(is_replaced, others.astype(np.int64), read)
        return read, np.where(chosen, ids, IGNORE)
