"""A moving average of a model's weights, which often does better than the last ones."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from llmos.training.checkpoint import Weights, set_weights, weights_of


def copied_weights(model: PreTrainedModel) -> Weights:
    """Return a copy of a model's weights, which training does not change."""
    return {name: tensor.detach().clone() for name, tensor in weights_of(model).items()}


@torch.no_grad()
def follow(average: Weights, model: PreTrainedModel, ema: float, step: int) -> None:
    """Let an average follow the weights: by less in the first steps, while it is still made of what
    the training began with."""
    decay = min(ema, (1 + step) / (10 + step))
    weights = weights_of(model)
    for name, kept in average.items():
        if kept.is_floating_point():
            kept.lerp_(weights[name], 1.0 - decay)
        else:
            kept.copy_(weights[name])


@contextlib.contextmanager
def averaged(model: PreTrainedModel, average: Weights | None) -> Iterator[None]:
    """Have a model's weights be their moving average meanwhile, where there is one."""
    if average is None:
        yield
        return
    own = copied_weights(model)
    set_weights(model, average)
    try:
        yield
    finally:
        set_weights(model, own)
