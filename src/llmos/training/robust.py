"""Training that small changes of what is read should not fool: noise, adversarial steps, R-Drop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmos.errors import RecipeError
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, cross_entropy_sum
from llmos.training.recipe_sections import RobustSection

Change = Callable[[Tensor], Tensor]
"""Takes what an embedding gives, ``[rows, length, size]``, and returns what is to be read."""
TINY = 1e-12


def backward(
    model: PreTrainedModel,
    batch: Batch,
    num_labels: int,
    section: RobustSection,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Add the gradients of a batch's loss, divided by ``num_labels``; return that loss.

    With `adversarial` the loss is the mean of that of the batch and of the batch moved to where,
    for a step so long in each row's embeddings, it is highest (Miyato et al., arXiv:1605.07725).
    """

    def loss(change: Change) -> Tensor:
        with _embeddings(model, change):
            return _loss(model, batch, section, label_smoothing) / num_labels

    if not section.adversarial:
        whole = loss(lambda read: _noisy(read, section.noise))
        whole.backward()  # type: ignore[no-untyped-call]
        return whole.detach()
    kept: list[Tensor] = []

    def keep(read: Tensor) -> Tensor:
        # A frozen embedding's output has no gradient of its own.
        read = read if read.requires_grad else read.detach().requires_grad_()
        read.retain_grad()
        kept.append(read)
        return _noisy(read, section.noise)

    plain = loss(keep) / 2
    plain.backward()  # type: ignore[no-untyped-call]
    moves = iter([_steepest(read, section.adversarial) for read in kept])
    moved = loss(lambda read: _noisy(read + next(moves), section.noise)) / 2
    moved.backward()  # type: ignore[no-untyped-call]
    return plain.detach() + moved.detach()


@torch.no_grad()
def check_r_drop(model: PreTrainedModel, batch: Batch) -> None:
    """See that two passes over a batch differ, which R-Drop needs; draws nothing.

    Raises:
        RecipeError: they do not, as there is no dropout.
    """
    was_training = model.training
    model.train()
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        first, second = (batch.labelled_logits(model)[0] for _ in range(2))
    model.train(was_training)
    if torch.equal(first, second):
        raise RecipeError(
            "robust.r_drop compares two passes that have dropouts of their own, and this network "
            "has none: give it some in model.config, by the name that it has there "
            "(attention_dropout=0.1, hidden_dropout_prob=0.1)"
        )


def _loss(
    model: PreTrainedModel, batch: Batch, section: RobustSection, label_smoothing: float
) -> Tensor:
    """Return the loss summed over labels; with `r_drop`, the mean of two passes with dropouts of
    their own and how far they are apart (Liang et al., arXiv:2106.14448)."""
    logits, labels = batch.labelled_logits(model)
    first = cross_entropy_sum(logits, labels, label_smoothing)
    if not section.r_drop:
        return first
    others, _ = batch.labelled_logits(model)
    second = cross_entropy_sum(others, labels, label_smoothing)
    labelled = labels != IGNORE
    a, b = (some[labelled].float().log_softmax(-1) for some in (logits, others))
    apart = F.kl_div(a, b, log_target=True, reduction="sum")
    apart = apart + F.kl_div(b, a, log_target=True, reduction="sum")
    return (first + second) / 2 + section.r_drop * apart / 2


def _noisy(read: Tensor, noise: float) -> Tensor:
    """Add uniform noise of ``noise / sqrt(length * size)`` (NEFTune: Jain et al.,
    arXiv:2310.05914)."""
    if not noise:
        return read
    scale = noise / (read.shape[-2] * read.shape[-1]) ** 0.5
    return read + torch.empty_like(read).uniform_(-scale, scale)


def _steepest(read: Tensor, length: float) -> Tensor:
    """Return each row's gradient at the length of an adversarial step."""
    assert read.grad is not None, "it has been through a backward pass"
    norms = read.grad.flatten(1).norm(dim=1).clamp(min=TINY)
    step: Tensor = length * read.grad / norms[:, None, None]
    return step


@contextlib.contextmanager
def _embeddings(model: PreTrainedModel, change: Change) -> Iterator[None]:
    """Have the network read what ``change`` makes of its embeddings: of all that share the matrix
    of the first, as those of an encoder and a decoder do.

    Raises:
        RecipeError: it reads none of them.
    """
    num_read = 0

    def changed(_: nn.Module, __: object, read: Tensor) -> Tensor:
        nonlocal num_read
        num_read += 1
        return change(read)

    weight = model.get_input_embeddings().weight
    embeddings = [
        part for part in model.modules() if isinstance(part, nn.Embedding) and part.weight is weight
    ]
    hooks = [part.register_forward_hook(changed) for part in embeddings]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    if num_read == 0:
        raise RecipeError("robust: this network's embeddings cannot be reached: leave it out")
