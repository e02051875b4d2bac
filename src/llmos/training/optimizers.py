"""The optimizers that a recipe may name. Weight decay is on matrices only: biases and norms have
none.

All state is tensors by parameter, in `Optimizer.state`, so a checkpoint holds any of them alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import SGD, Adafactor, Adam, AdamW, Muon, Optimizer, RMSprop

from llmos.errors import RecipeError
from llmos.training.recipe_sections import OptimizerSection

MUON_MOMENTUM = 0.95
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
CLASSIFIERS = frozenset({"classifier", "score", "heads"})
"""What the heads of classifiers, and those of a network for several tasks, are called."""


def build_optimizer(model: nn.Module, section: OptimizerSection) -> Optimizer:
    """Return the optimizer of a recipe over what is trained.

    Weight decay is a term of the gradient (L2) with SGD, RMSprop and Adam, and apart from it with
    the others (Loshchilov and Hutter, arXiv:1711.05101).

    Raises:
        RecipeError: nothing that is trained is what the optimizer is for.
    """
    if section.kind == "muon":
        return MuonAndAdamW(model, section)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return _plain(_decaying(trained, section.weight_decay), section)


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Use ``rate`` from the next step on."""
    for group in optimizer.param_groups:
        group["lr"] = rate


class Lion(Optimizer):
    """The sign of a moving average of gradients: half of Adam's state (Chen et al.,
    arXiv:2302.06675). Wants a rate 3 to 10 times lower than AdamW's, and as much more decay."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that are there."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
        average, (beta1, beta2) = state["exp_avg"], group["betas"]
        direction = torch.lerp(gradient, average, beta1).sign_()
        parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.add_(direction, alpha=-group["lr"])
        average.lerp_(gradient, 1.0 - beta2)


class MuonAndAdamW(Optimizer):
    """Muon for the matrices between embedding and head, AdamW for all else (Jordan et al., 2024);
    Muon's steps are as large as AdamW's, so that both have one rate (Liu et al.,
    arXiv:2502.16982)."""

    def __init__(self, model: nn.Module, section: OptimizerSection) -> None:
        inner, outer = _split(model)
        if not inner:
            raise RecipeError(
                "optimizer.kind muon is for matrices between embedding and head, and there are "
                "none to train: use adamw"
            )
        parts: list[Optimizer] = [
            Muon(
                inner,
                lr=section.learning_rate,
                weight_decay=section.weight_decay,
                momentum=MUON_MOMENTUM if section.momentum is None else section.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        ]
        if outer:
            parts.append(_adamw(_decaying(outer, section.weight_decay), section))
        super().__init__([group for part in parts for group in part.param_groups], {})
        for part in parts:
            part.state = self.state
        self._parts = parts

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients that are there."""
        for part in self._parts:
            part.step()


def _plain(groups: list[dict[str, Any]], section: OptimizerSection) -> Optimizer:
    rate, momentum = section.learning_rate, section.momentum or 0.0
    betas = section.betas[0], section.betas[1]
    match section.kind:
        case "sgd":
            return SGD(groups, lr=rate, momentum=momentum)
        case "rmsprop":
            alpha = section.betas[1]
            return RMSprop(groups, lr=rate, alpha=alpha, eps=section.epsilon, momentum=momentum)
        case "adam":
            return Adam(groups, lr=rate, betas=betas, eps=section.epsilon, fused=True)
        case "adafactor":
            return Adafactor(groups, lr=rate)
        case "lion":
            return Lion(groups, lr=rate, betas=betas)
        case _:
            return _adamw(groups, section)


def _adamw(groups: list[dict[str, Any]], section: OptimizerSection) -> AdamW:
    betas = section.betas[0], section.betas[1]
    return AdamW(groups, lr=section.learning_rate, betas=betas, eps=section.epsilon, fused=True)


def _decaying(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Return parameters as groups: matrices and embeddings decay, biases and norms do not. Those
    of which each process has a part are groups of their own."""
    groups: list[dict[str, Any]] = [
        {"params": [], "weight_decay": decay} for decay in (weight_decay, 0.0) * 2
    ]
    for parameter in parameters:
        is_part = isinstance(parameter, DTensor)
        groups[2 * is_part + (parameter.dim() < 2)]["params"].append(parameter)
    return [group for group in groups if group["params"]]


def _split(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return what is trained: matrices between embedding and head, and all else."""
    outer = {
        id(own)
        for part in model.modules()
        if isinstance(part, EMBEDDINGS)
        for own in part.parameters()
    }
    outer |= {
        id(own)
        for name, part in model.named_modules()
        if name.rpartition(".")[2] in CLASSIFIERS
        for own in part.parameters()
    }
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None:
        outer |= {id(own) for own in head.parameters()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    inner = [one for one in trained if one.dim() == 2 and id(one) not in outer]
    chosen = {id(one) for one in inner}
    return inner, [one for one in trained if id(one) not in chosen]
