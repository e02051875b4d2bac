"""Differentially private SGD: a model of which nobody can tell whether an example was learned.

Every step takes each example with some probability, cuts the gradient of each to a norm, and adds
noise to their sum (Abadi et al., arXiv:1607.00133). Which examples and what noise follow from the
step and a secret that is drawn once a job, kept beside its checkpoints and removed with them: an
attempt that goes on is the same training, and who has the published version has not the secret. A
secret that gets out takes all of the privacy with it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray
from llmos.errors import DataError, RecipeError
from llmos.training import accountant
from llmos.training.objectives import Batch, Objective
from llmos.training.recipe import Recipe
from llmos.training.recipe_sections import PrivacySection

SECRET_FILE = "privacy.secret"  # noqa: S105 - a file's name
SECRET_BYTES = 32
DEFAULT_DELTA = 1e-5
TINY = 1e-12
PUBLISHED = frozenset({"step", "learning_rate", "gradient_norm", "epsilon"})
"""What of a run's curve is made of no example, or with noise; validation losses come to it."""


@dataclass(frozen=True, slots=True)
class Privacy:
    """What a private training goes by.

    Attributes:
        examples: all that there are to take, as rows of the objective.
        batch_size: how many a step takes on average.
        max_norm: of an example's gradient.
    """

    secret: bytes
    examples: IntArray
    batch_size: int
    noise_multiplier: float
    max_norm: float
    delta: float

    @property
    def sampling_rate(self) -> float:
        """Probability that a step takes an example."""
        return self.batch_size / len(self.examples)

    def rows(self, step: int) -> IntArray:
        """The examples of a step, each taken by itself: maybe none."""
        drawn = self._generator("rows", step).random(len(self.examples))
        taken: IntArray = self.examples[drawn < self.sampling_rate]
        return taken

    def epsilon(self, steps: int) -> float:
        """What so many steps cost."""
        return accountant.epsilon(self.sampling_rate, self.noise_multiplier, steps, self.delta)

    def report(self, steps: int) -> dict[str, float]:
        """What was promised, for the metrics and the card."""
        return {
            "epsilon": self.epsilon(steps),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self.max_norm,
            "sampling_rate": self.sampling_rate,
            "steps": steps,
        }

    def backward(
        self,
        model: PreTrainedModel,
        batches: list[Batch],
        step: int,
        label_smoothing: float,
        between: Callable[[], None],
    ) -> Tensor:
        """Leave the private gradient of a step in the parameters; return the examples' mean loss.

        Args:
            batches: one example each.
            between: called before each; may wait, or raise where the job ends.
        """
        trained = [p for p in model.parameters() if p.requires_grad]
        sums = [torch.zeros_like(p) for p in trained]
        losses = torch.zeros((), device=model.device)
        for batch in batches:
            between()
            loss = batch.loss_sum(model, label_smoothing) / max(1, batch.num_labels)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            add_clipped(sums, gradients, self.max_norm)
            losses += loss.detach()
        noise = self._generator("noise", step)
        deviation = self.noise_multiplier * self.max_norm
        for parameter, total in zip(trained, sums, strict=True):
            drawn = torch.from_numpy(noise.standard_normal(tuple(total.shape)) * deviation)
            total += drawn.to(total.device, total.dtype)
            parameter.grad = total / self.batch_size
        return losses / max(1, len(batches))

    def _generator(self, use: str, step: int) -> np.random.Generator:
        """Chance of one step and use, from the whole secret."""
        digest = hmac.digest(self.secret, f"{use} {step}".encode(), hashlib.sha256)
        return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))


def add_clipped(sums: list[Tensor], gradients: tuple[Tensor | None, ...], max_norm: float) -> None:
    """Add one example's gradients to the sums, all of them together no longer than ``max_norm``."""
    norms = [gradient.norm() for gradient in gradients if gradient is not None]
    share = (max_norm / (torch.stack(norms).norm() + TINY)).clamp(max=1.0)
    for total, gradient in zip(sums, gradients, strict=True):
        if gradient is not None:
            total.add_(gradient * share)


def private(
    recipe: Recipe, model: PreTrainedModel, objective: Objective, train: Columns, directory: Path
) -> Privacy | None:
    """What a recipe's training goes by, None where it is not private.

    Args:
        directory: that of the job, where the secret is kept.

    Raises:
        RecipeError: what is asked for cannot be kept.
        DataError: there are fewer examples than a step is to take.
    """
    section = recipe.privacy
    if section is None:
        return None
    _check_network(model)
    examples = np.sort(objective.all_rows(train))
    count = len(examples)
    if count < recipe.batch_size:
        raise DataError(
            f"{recipe.data.path} has {count} examples, fewer than batch_size {recipe.batch_size}"
        )
    delta = section.delta or min(DEFAULT_DELTA, 0.1 / count)
    if delta * count >= 1:
        raise RecipeError(
            f"privacy.delta {delta:g} lets one of {count} examples be told: "
            f"use less than {1 / count:.1g}"
        )
    noise = _noise(section, recipe.batch_size / count, recipe.steps, delta)
    secret = _secret(directory / SECRET_FILE)
    return Privacy(secret, examples, recipe.batch_size, noise, section.max_grad_norm, delta)


def published(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """The curve of a private run, without what its examples would be seen in."""
    return [
        {k: v for k, v in point.items() if k in PUBLISHED or k.startswith("validation_")}
        for point in points
    ]


def _noise(section: PrivacySection, rate: float, steps: int, delta: float) -> float:
    if section.noise_multiplier is not None:
        return section.noise_multiplier
    assert section.epsilon is not None, "the recipe has one of the two"
    return accountant.noise_for(section.epsilon, rate, steps, delta)


def _check_network(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise RecipeError(
                f"privacy: {name} normalises over the batch, so that no example has a gradient of "
                "its own: use a network without batch norm"
            )


def _secret(path: Path) -> bytes:
    """The job's secret: what an earlier attempt kept, else a fresh one."""
    if not path.exists():
        partial = path.with_name(f".{path.name}.partial")
        partial.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(SECRET_BYTES))
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
    return path.read_bytes()
