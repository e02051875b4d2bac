"""Learning a vector of a text: of an autoencoder what it was made from, of a variational one the
evidence lower bound

    ELBO(x) = E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z)),   p(z) = N(0, 1)

(Kingma and Welling, arXiv:1312.6114). A writer that sees the tokens before each does without the
vector, and KL goes to 0, unless it is held back (Bowman et al., arXiv:1511.06349): the weight of
KL is a function of the step, and the noise one of seed, step and rows, so that resuming needs no
state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.evaluation import metrics
from llmos.models.codes import LEVELS
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, Examples, Measures, cross_entropy_sum
from llmos.training.recipe_sections import LatentSection

RISE = 0.5
"""The share of a cycle in which the weight rises (Fu et al., arXiv:1903.10145)."""


def kl_weight(step: int, steps: int, section: LatentSection) -> float:
    """Return the weight of KL in one step, counted from 0.

    | kl_schedule | |
    |---|---|
    | constant | kl_weight |
    | linear | rises from 0 to it over `kl_steps`, half of the steps unless told |
    | cyclical | rises anew in the first half of each of `kl_cycles` |
    """
    match section.kl_schedule:
        case "constant":
            share = 1.0
        case "linear":
            share = step / (section.kl_steps or max(1, steps // 2))
        case "cyclical":
            period = max(1, -(-steps // section.kl_cycles))
            share = step % period / (RISE * period)
    return section.kl_weight * min(1.0, share)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentBatch(Batch):
    """Texts, and what is random about learning from them.

    Attributes:
        noise: ``[rows, latent]``: standard normal, or uniform in -1 to 1 of an autoencoder.
        kept: tokens that the writer is shown, ``[rows, length]``; it is shown `hidden_id` for the
            others.
        kl_weight: 0 to 1; None: of no variational network.
        free_nats: of KL that each number may have at no cost.
    """

    noise: Tensor
    kept: Tensor
    hidden_id: int
    kl_weight: float | None = None
    free_nats: float = 0.0

    def to(self, device: torch.device) -> LatentBatch:
        moved = Batch.to(self, device)
        noise, kept = self.noise.to(device), self.kept.to(device)
        return replace(self, inputs=moved.inputs, labels=moved.labels, noise=noise, kept=kept)

    def loss_sum(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> Tensor:
        """The loss summed over texts, in nats."""
        reconstruction, divergences = self._terms(model, label_smoothing)
        if self.kl_weight is None:
            return reconstruction
        # Of each number the mean over the batch: some texts may use it, and others not.
        divergence = divergences.mean(0).clamp(min=self.free_nats).sum() * len(divergences)
        return reconstruction + self.kl_weight * divergence

    def measures(self, model: PreTrainedModel) -> Measures:
        """Also the parts of the bound, in nats a text."""
        reconstruction, divergences = self._terms(model)
        if self.kl_weight is None:
            return {"loss": (float(reconstruction), self.num_labels)}
        lost, kl, rows = float(reconstruction), float(divergences.sum()), len(divergences)
        return {
            "loss": (lost + kl, self.num_labels),
            "reconstruction": (lost, rows),
            "kl": (kl, rows),
            "elbo": (-lost - kl, rows),
        }

    def _terms(self, model: PreTrainedModel, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """Return the cross-entropy of the texts, and KL of each number ``[rows, latent]``."""
        ids = self.inputs["input_ids"]
        mean, deviation = model.encode(ids, self.inputs["attention_mask"])
        if self.kl_weight is not None:
            latent = mean + deviation * self.noise
        elif model.training:
            latent = mean + self.noise / LEVELS  # as far off as a level may be (arXiv:1611.01704)
        else:
            latent = model.values(model.quantised(mean))
        shown = ids.where(self.kept, self.hidden_id)
        logits = model.decode(latent, shown)
        lost = cross_entropy_sum(logits.flatten(0, 1), self.labels.flatten(), label_smoothing)
        return lost, 0.5 * (mean**2 + deviation**2 - 1 - 2 * deviation.log())


@dataclass(frozen=True, slots=True)
class Latents(Examples):
    """Texts that are to be written again from their vectors.

    Attributes:
        is_variational: the loss is the bound, and not the reconstruction alone.
        steps: of the whole training.
        step: of which batches are made; None for those that a model is tested on: noise is the
            same at any time then, and KL counts whole.
    """

    section: LatentSection
    is_variational: bool
    latent_size: int
    end_id: int
    hidden_id: int
    seed: int
    steps: int
    step: int | None = None

    def at(self, step: int) -> Latents:
        """Return the objective of one step."""
        return replace(self, step=step)

    def told(self) -> dict[str, float]:
        """What is to be seen of the step beside its loss."""
        weight = self._weight()
        return {} if weight is None else {"kl_weight": weight}

    @property
    def rate_share(self) -> float:
        """All of the learning rate."""
        return 1.0

    def batch(self, columns: Columns, rows: IntArray) -> LatentBatch:
        ids, mask = columns["input_ids"].padded(rows, self.end_id)
        labels = np.concatenate([np.where(mask, ids, IGNORE), np.full((len(ids), 1), IGNORE)], 1)
        labels[np.arange(len(ids)), mask.sum(1)] = self.end_id
        random = self._random(rows)
        shape = len(rows), self.latent_size
        noise = torch.randn(shape, generator=random)
        if not self.is_variational:
            noise = torch.rand(shape, generator=random) * 2 - 1
        dropped = self.section.word_dropout if self.step is not None else 0.0
        return LatentBatch(
            {
                "input_ids": torch.from_numpy(ids),
                "attention_mask": torch.from_numpy(mask.astype(np.int64)),
            },
            torch.from_numpy(labels),
            noise=noise,
            kept=torch.rand(ids.shape, generator=random) >= dropped,
            hidden_id=self.hidden_id,
            kl_weight=self._weight(),
            free_nats=self.section.free_bits if self.step is not None else 0.0,
        )

    def _weight(self) -> float | None:
        if not self.is_variational:
            return None
        return 1.0 if self.step is None else kl_weight(self.step, self.steps, self.section)

    def _random(self, rows: IntArray) -> torch.Generator:
        """A generator that depends on seed, step and rows alone."""
        about = f"{self.seed}:{self.step}:".encode() + np.ascontiguousarray(rows).tobytes()
        number = int.from_bytes(hashlib.sha256(about).digest()[:8], "big")
        return torch.Generator().manual_seed(number)


def latents_of(
    model: PreTrainedModel, section: LatentSection, is_variational: bool, seed: int, steps: int
) -> Latents:
    """Return the objective for a network with a bottleneck."""
    config: Any = model.config
    return Latents(
        section,
        is_variational,
        config.latent_size,
        model.end_id,
        config.code_token_id,
        seed,
        steps,
    )


@torch.inference_mode()
def fidelity(
    model: PreTrainedModel, columns: Columns, tokenizer: Tokenizer, batches: Sequence[IntArray]
) -> dict[str, float]:
    """Write texts to their codes, as many bytes as the vector has numbers, and back.

    Returns:
        ``exact``: the share that came back as they were; ``character_error``: edits for each
        character; ``code_bytes`` of a text, and ``text_bytes``, its mean length in UTF-8.
    """
    was_training = model.training
    model.eval()
    pairs: list[tuple[str, str]] = []
    for rows in batches:
        ids, mask = columns["input_ids"].padded(rows, model.end_id)
        inputs = torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))
        mean, _ = model.encode(*(part.to(model.device) for part in inputs))
        written = model.write(model.values(model.quantised(mean)), model.config.max_text_tokens)
        texts = [columns["input_ids"].row(row).tolist() for row in rows]
        pairs += zip(tokenizer.decode_batch(texts), tokenizer.decode_batch(written), strict=True)
    model.train(was_training)
    return {
        "exact": metrics.accuracy([b for _, b in pairs], [a for a, _ in pairs]),
        "character_error": metrics.edit_rate([b for _, b in pairs], [a for a, _ in pairs]),
        "code_bytes": model.config.latent_size,
        "text_bytes": sum(len(text.encode()) for text, _ in pairs) / len(pairs),
    }
