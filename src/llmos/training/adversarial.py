"""SeqGAN (Yu et al., arXiv:1609.05473): a language model learns to write what a critic takes for
real.

It learns from texts first (maximum likelihood), then the critic from texts and from what it writes;
then both in turn. The reward of a token is what the critic thinks of texts that go on from it: the
mean over rollouts. All of it follows from seed, step and rows, so resuming needs no state, and the
critic is a part of the model while it is trained, so that checkpoints have it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.errors import RecipeError
from llmos.evaluation import metrics
from llmos.models.convolutional import ConvolutionalConfig, ConvolutionalForSequenceClassification
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples
from llmos.training.recipe_sections import AdversarialSection

Phase = Literal["likelihood", "critic", "policy"]
PHASES: tuple[Phase, ...] = ("likelihood", "critic", "policy")
CRITIC = "critic"
"""The module of a model that is being trained."""
TESTED_TEXTS = 200
"""Texts that are drawn and compared, with one another and with those of validation."""


def phase_of(step: int, steps: int, section: AdversarialSection) -> Phase:
    """Return what one step, counted from 0, teaches, and to whom."""
    first = steps // 2 if section.pretrain_steps is None else section.pretrain_steps
    both = first + (steps // 10 if section.critic_steps is None else section.critic_steps)
    if step < first:
        return "likelihood"
    is_policy = step >= both and (step - both) % (1 + section.critic_per_policy) == 0
    return "policy" if is_policy else "critic"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts(Batch):
    """Texts, ``[rows, length]`` behind a start token, and how they are learned from.

    Attributes:
        seed: of what is drawn.
        max_tokens: of a text that is written, its end included.
    """

    phase: Phase
    seed: int
    max_tokens: int
    rollouts: int
    end_id: int

    @property
    def num_labels(self) -> int:
        if self.phase == "likelihood":
            return int((self.labels != IGNORE).sum())
        return len(self.labels)

    def to(self, device: torch.device) -> Texts:
        moved = Batch.to(self, device)
        return replace(self, inputs=moved.inputs, labels=moved.labels)

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over tokens, or, of the other phases, over texts."""
        if self.phase == "likelihood":
            return Batch.loss_sum(self, model, label_smoothing)
        random = torch.Generator().manual_seed(self.seed)
        start = self.inputs["input_ids"][:, :1]
        with _evaluating(model):
            written = draw(model, start, self.max_tokens, self.end_id, random)
        if self.phase == "critic":
            return self._critic_loss(model, written)
        rewards = self._rewards(model, start, written, random)
        logits = model(torch.cat([start, written[:, :-1]], 1), use_cache=False).logits
        chances = logits.float().log_softmax(-1).gather(2, written[..., None])[..., 0]
        lost: Tensor = -(chances * rewards).sum()
        return lost

    def _critic_loss(self, model: PreTrainedModel, written: Tensor) -> Tensor:
        """Return the cross-entropy of telling texts from what is written, halved."""
        real = self.labels.masked_fill(self.labels == IGNORE, self.end_id)
        width = written.shape[1]
        real = F.pad(real[:, :width], (0, max(0, width - real.shape[1])), value=self.end_id)
        told = judged(model, torch.cat([real, written]), self.end_id)
        wanted = torch.zeros_like(told)
        wanted[: len(real)] = 1.0
        return F.binary_cross_entropy_with_logits(told, wanted, reduction="sum") / 2

    @torch.no_grad()
    def _rewards(
        self, model: PreTrainedModel, start: Tensor, written: Tensor, random: torch.Generator
    ) -> Tensor:
        """Return by how much each token ``[rows, length]`` is better than those of other rows at
        its place; 0 behind a text's end."""
        rows, length = written.shape
        with _evaluating(model):
            whole = judged(model, written, self.end_id).sigmoid()
            # Of each place, rollouts that have the tokens up to it from the text.
            forced = torch.arange(1, length, device=written.device)
            forced = forced[:, None, None].expand(-1, self.rollouts, rows).reshape(-1)
            shape = length - 1, self.rollouts, rows, length
            prefixes = written.expand(shape).reshape(-1, length)
            starts = start.expand((*shape[:3], 1)).reshape(-1, 1)
            drawn = draw(model, starts, length, self.end_id, random, prefixes, forced)
            scores = judged(model, drawn, self.end_id).sigmoid().view(shape[:3]).mean(1).T
        rewards = torch.cat([scores, whole[:, None]], 1)
        real = mask_of(written, self.end_id)
        mean = (rewards * real).sum(0) / real.sum(0).clamp(min=1)
        return (rewards - mean) * real


@dataclass(frozen=True, slots=True)
class Adversarial(Examples):
    """Texts that a model is to write, by its own account and by a critic's.

    Attributes:
        steps: of the whole training.
        step: of which batches are made; None for those that a model is tested on: likelihood.
    """

    section: AdversarialSection
    start_id: int
    end_id: int
    max_tokens: int
    seed: int
    steps: int
    step: int | None = None

    def at(self, step: int) -> Adversarial:
        """Return the objective of one step."""
        return replace(self, step=step)

    def told(self) -> dict[str, float]:
        """The phase: 0 likelihood, 1 critic, 2 policy."""
        return {"phase": float(PHASES.index(self._phase))}

    @property
    def rate_share(self) -> float:
        """Of the learning rate: policy gradients are rough."""
        return self.section.policy_rate if self._phase == "policy" else 1.0

    @property
    def _phase(self) -> Phase:
        return PHASES[0] if self.step is None else phase_of(self.step, self.steps, self.section)

    def batch(self, columns: Columns, rows: IntArray) -> Texts:
        ids, mask = columns["input_ids"].padded(rows, self.end_id)
        inputs = np.concatenate([np.full((len(ids), 1), self.start_id), ids], 1)
        labels = np.concatenate([np.where(mask, ids, IGNORE), np.full((len(ids), 1), IGNORE)], 1)
        labels[np.arange(len(ids)), mask.sum(1)] = self.end_id
        about = f"{self.seed}:{self.step}:".encode() + np.ascontiguousarray(rows).tobytes()
        return Texts(
            {"input_ids": torch.from_numpy(inputs), "use_cache": False},
            torch.from_numpy(labels),
            phase=self._phase,
            seed=int.from_bytes(hashlib.sha256(about).digest()[:7], "big"),
            max_tokens=self.max_tokens,
            rollouts=self.section.rollouts,
            end_id=self.end_id,
        )

    @torch.inference_mode()
    def survey(self, model: PreTrainedModel, columns: Columns) -> dict[str, float]:
        """Compare texts that the model draws with those of ``columns`` and with one another, always
        from the same random numbers.

        Returns:
            ``bleu`` of order 4 against all texts of ``columns`` (good is high), ``self_bleu``
            against one another (varied is low; Zhu et al., arXiv:1802.01886), and ``distinct_2``,
            the share of different ones among pairs of neighbours (arXiv:1510.03055).
        """
        random = torch.Generator().manual_seed(self.seed)
        start = torch.full((TESTED_TEXTS, 1), self.start_id, device=model.device)
        with _evaluating(model):
            written = draw(model, start, self.max_tokens, self.end_id, random)
        lengths = mask_of(written, self.end_id).sum(1).tolist()
        drawn = [row[:n] for row, n in zip(written.tolist(), lengths, strict=True)]
        texts = columns["input_ids"]
        real = [[*texts.row(i).tolist(), self.end_id] for i in range(min(len(texts), TESTED_TEXTS))]
        return {
            "bleu": metrics.bleu_among(drawn, real),
            "self_bleu": metrics.bleu_among(drawn),
            "distinct_2": metrics.distinct(drawn, 2),
        }


def adversarial_of(
    model: PreTrainedModel, section: AdversarialSection, max_tokens: int, seed: int, steps: int
) -> Adversarial:
    """Return the objective for a language model, and give that a critic to learn with; draws on
    torch's generator.

    Raises:
        RecipeError: no token says that a text ends.
    """
    config: Any = model.config
    end = config.eos_token_id
    if end is None:
        raise RecipeError("objective adversarial needs a model that has a token for a text's end")
    end = int(end[0] if isinstance(end, list) else end)
    start = end if config.bos_token_id is None else int(config.bos_token_id)
    sizes = ConvolutionalConfig(
        vocab_size=config.vocab_size,
        hidden_size=section.critic_size,
        num_filters=section.critic_size,
        widths=[1, 2, 3, 4],
        dropout=0.25,
        num_labels=1,
    )
    critic = ConvolutionalForSequenceClassification(sizes).to(model.device)
    model.add_module(CRITIC, critic)
    return Adversarial(section, start, end, max_tokens + 1, seed, steps)


def drop_critic(model: PreTrainedModel) -> None:
    """Leave the model as it is to be published."""
    if CRITIC in dict(model.named_children()):
        delattr(model, CRITIC)


def judged(model: nn.Module, texts: Tensor, end_id: int) -> Tensor:
    """Return the critic's logits ``[rows]`` that texts ``[rows, length]`` are real."""
    critic = model.get_submodule(CRITIC)
    logits: Tensor = critic(texts, mask_of(texts, end_id).long()).logits
    return logits[:, 0]


def mask_of(texts: Tensor, end_id: int) -> Tensor:
    """Return which tokens are of the text ``[rows, length]``, its end included."""
    ended = (texts == end_id).cumsum(1)
    return (ended == 0) | ((ended == 1) & (texts == end_id))


@torch.no_grad()
def draw(
    model: PreTrainedModel,
    start: Tensor,
    max_tokens: int,
    end_id: int,
    random: torch.Generator,
    prefixes: Tensor | None = None,
    forced: Tensor | None = None,
) -> Tensor:
    """Draw texts ``[rows, max_tokens]`` token by token; behind its end a text has end tokens.

    Args:
        start: the token before the first, ``[rows, 1]``.
        prefixes: texts ``[rows, max_tokens]`` of which the first ``forced`` ``[rows]`` tokens are
            taken as they are.
    """
    cache = DynamicCache(config=model.config)
    token, drawn = start, []
    for place in range(max_tokens):
        logits = model(token, past_key_values=cache, use_cache=True).logits[:, -1]
        chances = logits.float().softmax(-1).cpu()
        token = torch.multinomial(chances, 1, generator=random).to(start.device)
        if prefixes is not None and forced is not None:
            token = torch.where(forced[:, None] > place, prefixes[:, place : place + 1], token)
        drawn.append(token)
    texts = torch.cat(drawn, 1)
    return texts.masked_fill(~mask_of(texts, end_id), end_id)


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Have the model without dropout meanwhile."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
