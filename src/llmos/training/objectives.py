"""What a model learns from a batch: the tensors it reads and the labels of its logits.

Positions that carry no loss (padding, prompts, the user's turns) are labelled IGNORE by where they
stand, never by which token stands there: a padding token may well be the end token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.training.encoder import IGNORE
from llmos.training.sampling import ExampleSampler, Sampler, StreamSampler

Measures = dict[str, tuple[float, int]]
"""What is measured of a batch: sums, and of how many each is."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Model inputs by argument name, and labels: ``[rows, length]``, or ``[rows]`` of classes."""

    inputs: dict[str, Any]
    labels: Tensor
    sparse: bool = False
    """Few positions carry loss: logits are only made for those."""

    @property
    def num_labels(self) -> int:
        return int((self.labels != IGNORE).sum())

    @property
    def num_tokens(self) -> int:
        return sum(v.numel() for name, v in self.inputs.items() if name.endswith("input_ids"))

    def to(self, device: torch.device) -> Batch:
        moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.inputs.items()}
        return replace(self, inputs=moved, labels=self.labels.to(device))

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over what `num_labels` counts: cross-entropy of the labels, in nats."""
        return cross_entropy_sum(*self.labelled_logits(model), label_smoothing)

    def labelled_logits(self, model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Logits ``[positions, classes]`` and labels ``[positions]``, of some of which IGNORE."""
        if self.sparse:
            hidden = model.base_model(**self.inputs).last_hidden_state
            labelled = self.labels != IGNORE
            return model.get_output_embeddings()(hidden[labelled]), self.labels[labelled]
        logits = model(**self.inputs).logits
        return logits.reshape(-1, logits.shape[-1]), self.labels.reshape(-1)

    def measures(self, model: PreTrainedModel) -> Measures:
        """What a model is tested for: the loss, and what else there is to tell."""
        return {"loss": (float(self.loss_sum(model)), self.num_labels)}


@dataclass(frozen=True, slots=True)
class Turns(Batch):
    """Conversations."""

    def measures(self, model: PreTrainedModel) -> Measures:
        """The loss, and the share of the labelled tokens that the model finds likeliest."""
        logits, labels = self.labelled_logits(model)
        right = int(((logits.argmax(-1) == labels) & (labels != IGNORE)).sum())
        loss, count = float(cross_entropy_sum(logits, labels)), self.num_labels
        return {"loss": (loss, count), "token_accuracy": (right, count)}


class Objective(Protocol):
    """Makes batches out of token arrays."""

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler: ...

    def all_rows(self, columns: Columns) -> IntArray:
        """Every row once, alike lengths together: what a whole evaluation reads."""
        ...

    def batch(self, columns: Columns, rows: IntArray) -> Batch: ...


@runtime_checkable
class Scheduled(Protocol):
    """An objective that changes with the step, which it is a pure function of."""

    def at(self, step: int) -> Objective:
        """Return the objective of one micro-batch's step, counted from 0."""
        ...

    def told(self) -> dict[str, float]:
        """Return what is to be seen of the step in the curve."""
        ...

    @property
    def rate_share(self) -> float:
        """Of the learning rate, in this step."""
        ...


@runtime_checkable
class Surveyed(Protocol):
    """An objective that has more to say of a model than means over batches."""

    def survey(self, model: PreTrainedModel, columns: Columns) -> dict[str, float]:
        """Return measurements by name."""
        ...


def cross_entropy_sum(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy summed over the labels, in nats."""
    return F.cross_entropy(
        logits.float(),
        labels,
        ignore_index=IGNORE,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


@dataclass(frozen=True, slots=True)
class TextStream:
    """Causal LM on one long stream of tokens; rows are start positions of blocks."""

    block_size: int

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        return StreamSampler(len(columns["tokens"].flat), self.block_size, batch_size, seed)

    def all_rows(self, columns: Columns) -> IntArray:
        last = len(columns["tokens"].flat) - self.block_size
        return np.arange(0, max(last, 1), self.block_size, dtype=np.int64)

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        positions = rows[:, None] + np.arange(self.block_size + 1)
        tokens = torch.from_numpy(columns["tokens"].flat[positions].astype(np.int64))
        return Batch({"input_ids": tokens[:, :-1], "use_cache": False}, tokens[:, 1:])


class Examples:
    """Objectives whose rows are examples with a column of input ids."""

    __slots__ = ()

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        return ExampleSampler(columns["input_ids"].lengths, batch_size, seed)

    def all_rows(self, columns: Columns) -> IntArray:
        return np.argsort(columns["input_ids"].lengths, kind="stable").astype(np.int64)


@dataclass(frozen=True, slots=True)
class Conversations(Examples):
    """Causal LM on whole conversations; only tokens marked in ``learned`` are labels.

    ``plain_head`` says that the model's logits are its output embeddings times its last hidden
    state and no more, so that those of unlabelled positions need not be made.
    """

    plain_head: bool = False

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        ids, _ = columns["input_ids"].padded(rows, 0)
        learned, _ = columns["learned"].padded(rows, 0)
        labels = np.where(learned[:, 1:] == 1, ids[:, 1:], IGNORE)
        # Padding stands right of every real token, so causal attention needs no mask against it.
        inputs = {"input_ids": torch.from_numpy(ids[:, :-1].copy()), "use_cache": False}
        return Turns(inputs, torch.from_numpy(labels), sparse=self.plain_head)


@dataclass(frozen=True, slots=True)
class SequencePairs(Examples):
    """Seq2seq: the decoder reads the target shifted right behind its start token."""

    start_id: int
    pad_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        source, source_mask = columns["input_ids"].padded(rows, self.pad_id)
        target, target_mask = columns["target_ids"].padded(rows, self.pad_id)
        start = np.full((len(rows), 1), self.start_id, dtype=np.int64)
        inputs = {
            "input_ids": torch.from_numpy(source),
            "attention_mask": torch.from_numpy(source_mask.astype(np.int64)),
            "decoder_input_ids": torch.from_numpy(np.concatenate([start, target[:, :-1]], axis=1)),
            "use_cache": False,
        }
        return Batch(inputs, torch.from_numpy(np.where(target_mask, target, IGNORE)))


@dataclass(frozen=True, slots=True)
class SequenceClasses(Examples):
    """One class per text."""

    pad_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        classes, _ = columns["labels"].padded(rows, IGNORE)
        return Batch(masked_inputs(columns, rows, self.pad_id), torch.from_numpy(classes[:, 0]))


@dataclass(frozen=True, slots=True)
class TokenClasses(Examples):
    """One class per token; special tokens are stored as IGNORE."""

    pad_id: int

    def batch(self, columns: Columns, rows: IntArray) -> Batch:
        classes, _ = columns["labels"].padded(rows, IGNORE)
        return Batch(masked_inputs(columns, rows, self.pad_id), torch.from_numpy(classes))


def objective_for(task: str, block_size: int, model: PreTrainedModel) -> Objective:
    """How a task makes batches for this model."""
    pad = model.config.pad_token_id or 0
    match task:
        case "generate":
            return TextStream(block_size)
        case "chat":
            return Conversations(has_plain_head(model))
        case "translate":
            return SequencePairs(model.config.decoder_start_token_id, pad)
        case "classify":
            return SequenceClasses(pad)
        case _:
            return TokenClasses(pad)


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether logits are output embeddings times last hidden state; tried, not looked up."""
    ids = torch.arange(2, device=model.device)[None]
    was_training = model.training
    model.eval()
    logits = model(input_ids=ids, use_cache=False).logits
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    head = model.get_output_embeddings()(hidden)
    model.train(was_training)
    return head.shape == logits.shape and bool(torch.allclose(head, logits, atol=1e-6))


def masked_inputs(columns: Columns, rows: IntArray, pad_id: int) -> dict[str, Any]:
    """What a reader is given of some examples: padded token ids, and where they are real."""
    ids, mask = columns["input_ids"].padded(rows, pad_id)
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
    }
