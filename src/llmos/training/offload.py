"""Hands a device's memory over while training stands still: what lies there goes to the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from accelerate.utils.memory import clear_device_cache
from torch import Tensor, nn


def offload(
    model: nn.Module, optimizer: torch.optim.Optimizer, others: Iterable[Tensor] = ()
) -> Callable[[], None]:
    """Move weights, gradients, the optimizer's state and ``others`` to host memory; return what
    moves each tensor back to where it was. A copy there and back changes no bit."""
    kept = (*_tensors(model, optimizer), *others)
    moved = [(tensor, tensor.device) for tensor in kept]
    for tensor, _ in moved:
        tensor.data = tensor.data.to("cpu")
    clear_device_cache()

    def restore() -> None:
        for tensor, device in moved:
            tensor.data = tensor.data.to(device)
        clear_device_cache()

    return restore


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield every tensor that outlives a step, each once."""
    for parameter in model.parameters():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from model.buffers()
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))
