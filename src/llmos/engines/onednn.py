"""Linear layers on the CPU by oneDNN, with weights laid out for it.

torch gives float32 products to MKL, and has oneDNN lay out bfloat16 weights anew in every call; for
the few rows of a decode step either takes longer than the product (see docs/performance.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmos.engines.loading import Model

NUM_ROWS = 16
"""The layout is made for products of about so many rows; it serves others as well."""


class OneDnnLinear(nn.Module):
    """Computes what ``linear`` does. It keeps only the weight in its new layout, which is of the
    same size; but one that others share, or that the network looks at, it keeps as it was."""

    def __init__(self, linear: nn.Linear, *, is_shared: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        weight = linear.weight.detach()
        self._weight = (
            weight if is_shared else torch.ops.mkldnn._reorder_linear_weight(weight, NUM_ROWS)
        )

    @property
    def weight(self) -> Tensor:
        """The weight as it was. A network that looks at it does so at every token: T5 asks for
        its type."""
        if self._weight.is_mkldnn:
            self._weight = self._weight.to_dense()
        return self._weight

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., out_features]`` of ``x`` [..., in_features]."""
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self.bias, "none", [], ""
        )
        return product


def compute_by_onednn(model: Model) -> None:
    """Replace the linear layers of a network, if it is on a CPU and oneDNN is there."""
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    users: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        users[id(parameter)] = users.get(id(parameter), 0) + 1
    for path, module in list(model.named_modules()):
        if type(module) is nn.Linear and _is_suited(module.weight):
            is_shared = users[id(module.weight)] > 1
            model.set_submodule(path, OneDnnLinear(module, is_shared=is_shared))


def _is_suited(weight: Tensor) -> bool:
    if weight.dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype is torch.float32
