"""Knowledge distillation: a student learns from a teacher's whole distribution, not labels alone.

    loss = (1 - alpha) CE(labels) + alpha T^2 KL(softmax(z_teacher / T) || softmax(z_student / T))

with logits z at temperature T; T^2 keeps the gradients of both terms of one size as T changes
(Hinton et al., arXiv:1503.02531, section 2.1). Hidden states of mapped layers may be drawn together
too: the student's, through a linear map where the sizes differ, to the teacher's (Jiao et al.,
TinyBERT, arXiv:1909.10351, equation 8; by cosine as in Sanh et al., DistilBERT, arXiv:1910.01108).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.errors import RecipeError
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Objective, cross_entropy_sum
from llmos.training.recipe_sections import DistillSection, HiddenSection
from llmos.training.sampling import Sampler

MAPS = "distillation_maps"
"""The attribute of a student that holds its linear maps while it learns."""
Layers = tuple[tuple[int, int], ...]
"""Pairs of a student's and a teacher's layer; 0 is what the embeddings give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilledBatch(Batch):
    """A batch whose loss has the teacher's share in training, and is of labels alone elsewhere."""

    teacher: PreTrainedModel
    section: DistillSection
    layers: Layers

    def to(self, device: torch.device) -> DistilledBatch:
        moved = Batch.to(self, device)
        return DistilledBatch(
            moved.inputs,
            moved.labels,
            teacher=self.teacher,
            section=self.section,
            layers=self.layers,
        )

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over labels, in nats but for the hidden states' part."""
        if not model.training:
            return Batch.loss_sum(self, model, label_smoothing)
        wanted = {"output_hidden_states": True} if self.layers else {}
        with torch.no_grad():
            taught = self.teacher(**self.inputs, **wanted)
        own = model(**self.inputs, **wanted)
        logits, targets = (out.logits.reshape(-1, out.logits.shape[-1]) for out in (own, taught))
        labels = self.labels.reshape(-1)
        alpha = self.section.alpha
        loss = (1 - alpha) * cross_entropy_sum(logits, labels, label_smoothing)
        labelled = labels != IGNORE
        soft = soft_loss_sum(logits[labelled], targets[labelled], self.section.temperature)
        loss = loss + alpha * soft
        if self.section.hidden is not None:
            for number, (ours, theirs) in enumerate(self.layers):
                student, teacher = own.hidden_states[ours], taught.hidden_states[theirs]
                far = hidden_distance(self._mapped(model, number, student), teacher, self.section)
                loss = loss + self.section.hidden.weight / len(self.layers) * self._summed(far)
        return loss

    def _mapped(self, model: PreTrainedModel, number: int, states: Tensor) -> Tensor:
        maps = getattr(model, MAPS, None)
        mapped: Tensor = states if maps is None else maps[number](states)
        return mapped

    def _summed(self, far: Tensor) -> Tensor:
        """Sum distances ``[rows, length]``: at labels, or as means of texts that have one each."""
        if self.labels.shape == far.shape:
            return far[self.labels != IGNORE].sum()
        mask: Tensor = self.inputs["attention_mask"]
        return ((far * mask).sum(1) / mask.sum(1)).sum()


def soft_loss_sum(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """T^2 times the divergence of two distributions at temperature T, summed over rows.

    Args:
        logits, targets: the student's and the teacher's, ``[rows, classes]``.
    """
    ours = (logits.float() / temperature).log_softmax(-1)
    theirs = (targets.float() / temperature).log_softmax(-1)
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="sum")


def hidden_distance(student: Tensor, teacher: Tensor, section: DistillSection) -> Tensor:
    """How far states ``[rows, length, size]`` are apart, ``[rows, length]``: the mean of squares,
    or 1 less the cosine."""
    assert section.hidden is not None
    if section.hidden.loss == "cosine":
        return 1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)
    return (student.float() - teacher.float()).square().mean(-1)


@dataclass(frozen=True, slots=True)
class Distilled:
    """An objective whose batches are learned from a teacher too."""

    objective: Objective
    teacher: PreTrainedModel
    section: DistillSection
    layers: Layers = ()

    def sampler(self, columns: Columns, batch_size: int, seed: int) -> Sampler:
        return self.objective.sampler(columns, batch_size, seed)

    def all_rows(self, columns: Columns) -> IntArray:
        return self.objective.all_rows(columns)

    def batch(self, columns: Columns, rows: IntArray) -> DistilledBatch:
        """The objective's batch; logits of all positions are made."""
        plain = self.objective.batch(columns, rows)
        return DistilledBatch(
            plain.inputs,
            plain.labels,
            teacher=self.teacher,
            section=self.section,
            layers=self.layers,
        )


def distilled(
    objective: Objective,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    section: DistillSection,
    max_length: int,
) -> Distilled:
    """Set a student to learn from a teacher, which stays as it is.

    Where hidden states of other sizes are to match, the student gets linear maps, drawn from
    torch's generator; `forget_maps` takes them away.

    Raises:
        RecipeError: the two do not fit together.
    """
    teacher.eval().requires_grad_(False)
    _check_outputs(student, teacher, section, max_length)
    if section.hidden is None:
        return Distilled(objective, teacher, section)
    sizes = [_state_sizes(model, section) for model in (student, teacher)]
    layers = _layers(section.hidden, *map(len, sizes))
    pairs = [(sizes[0][ours], sizes[1][theirs]) for ours, theirs in layers]
    if any(ours != theirs for ours, theirs in pairs):
        maps = [nn.Linear(ours, theirs, bias=False) for ours, theirs in pairs]
        student.add_module(MAPS, nn.ModuleList(maps).to(student.device))
    return Distilled(objective, teacher, section, layers)


def forget_maps(student: PreTrainedModel) -> None:
    """Take away what a student needed to learn and nobody needs to run it."""
    if hasattr(student, MAPS):
        delattr(student, MAPS)


def check_tokens(ours: Tokenizer, teacher: Tokenizer, name: str) -> None:
    """See that teacher and student mean the same by a token id.

    Raises:
        RecipeError: they do not.
    """
    if ours.get_vocab(with_added_tokens=True) != teacher.get_vocab(with_added_tokens=True):
        raise RecipeError(
            f"distill.teacher {name} has another tokenizer than the student, so its distributions "
            "are over other tokens: take the teacher's with tokenizer.kind=teacher, or another "
            "teacher"
        )


def _check_outputs(
    student: PreTrainedModel, teacher: PreTrainedModel, section: DistillSection, max_length: int
) -> None:
    ours, theirs = student.config, teacher.config
    if getattr(theirs, "is_encoder_decoder", False) != getattr(ours, "is_encoder_decoder", False):
        raise RecipeError(f"distill.teacher {section.teacher} is no network of the student's kind")
    limit = getattr(theirs, "max_position_embeddings", None)
    if limit is not None and limit < max_length:
        raise RecipeError(
            f"distill.teacher {section.teacher} reads {limit} tokens, the student {max_length}"
        )
    has_labels = type(student).__name__.endswith("Classification")
    if has_labels and dict(ours.id2label) != dict(theirs.id2label):
        raise RecipeError(
            f"distill.teacher {section.teacher} has the labels "
            f"{', '.join(theirs.id2label.values())}, not {', '.join(ours.id2label.values())}"
        )
    if not has_labels and ours.vocab_size != theirs.vocab_size:
        raise RecipeError(
            f"distill.teacher {section.teacher} has {theirs.vocab_size} logits, the student "
            f"{ours.vocab_size}: set model.config.vocab_size={theirs.vocab_size}"
        )


@torch.no_grad()
def _state_sizes(model: PreTrainedModel, section: DistillSection) -> list[int]:
    """The sizes of a network's hidden states, found by asking it.

    Raises:
        RecipeError: it gives none.
    """
    was_training = model.training
    model.eval()
    ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    try:
        states: Any = model(input_ids=ids, output_hidden_states=True).hidden_states
    except (TypeError, ValueError):
        states = None
    model.train(was_training)
    if not states:
        raise RecipeError(
            f"distill.hidden: {type(model).__name__} gives no hidden states: leave distill.hidden "
            f"out to learn from the logits of {section.teacher} alone"
        )
    return [state.shape[-1] for state in states]


def _layers(section: HiddenSection, num_ours: int, num_theirs: int) -> Layers:
    """The mapped layers: those told, or each of the student's with the one as deep in the teacher.

    Raises:
        RecipeError: one of those told is not there.
    """
    if not section.layers:
        last, theirs = num_ours - 1, num_theirs - 1
        return tuple((layer, round(layer * theirs / max(1, last))) for layer in range(num_ours))
    for ours, theirs in section.layers:
        if not (0 <= ours < num_ours and 0 <= theirs < num_theirs):
            raise RecipeError(
                f"distill.hidden.layers has [{ours}, {theirs}], but the student's layers are "
                f"0 to {num_ours - 1} and the teacher's 0 to {num_theirs - 1}"
            )
    return _pairs(section.layers)


def _pairs(layers: Sequence[Sequence[int]]) -> Layers:
    return tuple((ours, theirs) for ours, theirs in layers)
