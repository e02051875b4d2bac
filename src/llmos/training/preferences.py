"""Direct preference optimisation: of two answers the better one is made likelier than the other,
measured from how likely the model that training began with found both.

    loss = -log sigmoid(beta * ((log p(c) - log p0(c)) - (log p(r) - log p0(r))))

for a chosen answer c and a rejected one r to the same turns (Rafailov et al., arXiv:2305.18290,
equation 7). With label smoothing e the loss is that of labels which are wrong as often
(Mitchell, 2023, cDPO): (1 - e) and e times it for the pair as it is and turned around.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data import encoding
from llmos.data.encoding import Columns, IntArray, Ragged
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples

REFERENCE = "reference"
"""The column of log p0 of both answers: two float32 numbers for each pair, kept by their bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs(Batch):
    """Both answers to the same turns: the rows of the chosen ones, then those of the rejected.

    Attributes:
        reference: log p0, ``[pairs, 2]``.
    """

    reference: Tensor
    beta: float

    @property
    def num_labels(self) -> int:
        return len(self.reference)

    def to(self, device: torch.device) -> Pairs:
        moved = Batch.to(self, device)
        reference = self.reference.to(device)
        return Pairs(moved.inputs, moved.labels, reference=reference, beta=self.beta)

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over pairs, in nats."""
        margins = self.margins(model)
        right, wrong = F.logsigmoid(margins), F.logsigmoid(-margins)
        return -((1 - label_smoothing) * right + label_smoothing * wrong).sum()

    def margins(self, model: PreTrainedModel) -> Tensor:
        """By how much the chosen answers are preferred, ``[pairs]``: beta times log-odds."""
        gains = log_likelihoods(model, self) - self.reference
        return self.beta * (gains[:, 0] - gains[:, 1])


@dataclass(frozen=True, slots=True)
class Preferences(Examples):
    """Pairs of answers; each pair of rows is an example."""

    beta: float

    def batch(self, columns: Columns, rows: IntArray) -> Pairs:
        inputs, labels = _both(columns, rows)
        bits = columns[REFERENCE].flat.reshape(-1, 2)[rows]
        reference = torch.from_numpy(np.ascontiguousarray(bits).view(np.float32))
        return Pairs(inputs, labels, reference=reference, beta=self.beta)


def with_reference(
    columns: Columns,
    model: PreTrainedModel,
    directory: Path,
    batch_size: int,
    give_way: Callable[[], None] = lambda: None,
) -> Columns:
    """Return the columns with how likely ``model``, before its first step, finds each answer.

    What was found is kept in ``directory``, which is there whole or not at all: a training that
    goes on has other weights by then.

    Args:
        give_way: called before each batch; may wait, or raise where the job ends.
    """
    if not directory.exists():
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        found = torch.cat([*_found(columns, model, batch_size, give_way)]).float().cpu().numpy()
        bits = np.ascontiguousarray(found).view(np.int32)
        encoding.save({REFERENCE: Ragged.of(bits)}, partial, REFERENCE)
        partial.rename(directory)
    return columns | encoding.load(directory, REFERENCE, [REFERENCE])


@torch.inference_mode()
def accuracy(
    model: PreTrainedModel, objective: Preferences, columns: Columns, batches: Sequence[IntArray]
) -> float:
    """Return the share of pairs of which the chosen answer is preferred more than before."""
    was_training = model.training
    model.eval()
    right = [objective.batch(columns, rows).to(model.device).margins(model) > 0 for rows in batches]
    model.train(was_training)
    return float(torch.cat(right).float().mean())


def log_likelihoods(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return log p of both answers, ``[pairs, 2]``: the sum over their tokens."""
    logits = model(**batch.inputs).logits.float()
    losses = F.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -losses.view(batch.labels.shape).sum(1).view(2, -1).T


@torch.inference_mode()
def _found(
    columns: Columns, model: PreTrainedModel, batch_size: int, give_way: Callable[[], None]
) -> Iterator[Tensor]:
    model.eval()
    for start in range(0, len(columns["input_ids"]), batch_size):
        give_way()
        rows = np.arange(start, min(start + batch_size, len(columns["input_ids"])))
        yield log_likelihoods(model, Batch(*_both(columns, rows)).to(model.device))


def _both(columns: Columns, rows: IntArray) -> tuple[dict[str, object], Tensor]:
    """Return the model's inputs and labels of both answers to some examples."""
    parts = []
    for ids_name, learned_name in (("input_ids", "learned"), ("rejected_ids", "rejected_learned")):
        ids, _ = columns[ids_name].padded(rows, 0)
        learned, _ = columns[learned_name].padded(rows, 0)
        parts.append((ids, np.where(learned == 1, ids, IGNORE)))
    longest = max(ids.shape[1] for ids, _ in parts)
    # Padding stands right of every real token, so causal attention needs no mask against it.
    ids, labels = (
        np.concatenate(
            [
                np.pad(part, ((0, 0), (0, longest - part.shape[1])), constant_values=fill)
                for part in some
            ]
        )
        for some, fill in zip(zip(*parts, strict=True), (0, IGNORE), strict=True)
    )
    inputs = {"input_ids": torch.from_numpy(ids[:, :-1].copy()), "use_cache": False}
    return inputs, torch.from_numpy(labels[:, 1:].copy())
