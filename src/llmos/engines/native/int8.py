"""Linear layers and embeddings over int8 weights in plain torch: small and exact on any machine.

A weight has a scale per output, the activations one per row, found as they come. What is summed in
between are integers, so that a row gets the same bits whoever shares the batch, on every machine.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ROWS_AT_ONCE = 4096
"""Few enough that float copies of them are small beside a vocabulary's."""
_EXACT_TERMS = 2**24 // 127**2
"""So many products of two int8 numbers add up without rounding in float32, in any order."""
_TINY = 1e-30
_ONE_THREAD = 4096
"""So few numbers every function of torch gives to one thread."""
_WHOLE_VECTORS = 64
"""Rows of a multiple of so many numbers leave none over when they are taken in vectors."""


@dataclass(frozen=True, slots=True)
class Int8:
    """A matrix ``numbers * scale[:, None]``: int8 [rows, columns] and float32 [rows]."""

    numbers: Tensor
    scale: Tensor

    def __getitem__(self, rows: Any) -> Int8:
        return Int8(self.numbers[rows], self.scale[rows])

    def float(self) -> Tensor:
        """Return it as float32."""
        return self.numbers.float() * self.scale[:, None]


def row_scales(weight: Tensor) -> Tensor:
    """Return the scales of a matrix of any floating-point type: a row's absmax is 127."""
    pieces = torch.split(weight, _ROWS_AT_ONCE)
    return torch.cat([piece.float().abs().amax(dim=1) / 127 for piece in pieces])


def round_rows(weight: Tensor, scale: Tensor) -> Tensor:
    """Return the int8 numbers of a matrix whose rows have these scales."""
    pieces = zip(torch.split(weight, _ROWS_AT_ONCE), torch.split(scale, _ROWS_AT_ONCE), strict=True)
    return torch.cat([_rounded(piece.float(), steps) for piece, steps in pieces])


def _rounded(weight: Tensor, scale: Tensor) -> Tensor:
    numbers = torch.round(weight / scale.clamp_min(_TINY)[:, None])
    return numbers.clamp_(-127, 127).to(torch.int8)


def quantize_rows(weight: Tensor) -> Int8:
    """Return the int8 matrix nearest to one of any floating-point type."""
    scale = row_scales(weight)
    return Int8(round_rows(weight, scale), scale)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a @ b.T`` as int32 ``[T, N]`` of int8 ``a`` [T, K] and ``b`` [N, K], exactly."""
    if a.device.type == "cpu" and len(a) and _has_exact_product():
        return torch._int_mm(a, b.t())
    return multiply_in_float32(a, b)


def multiply_in_float32(a: Tensor, b: Tensor) -> Tensor:
    """As `multiply`, by the products of float32, of so few terms that each is exact."""
    total = torch.zeros(len(a), len(b), dtype=torch.int32, device=a.device)
    for out, rows in zip(
        torch.split(total, _ROWS_AT_ONCE, dim=1), torch.split(b, _ROWS_AT_ONCE), strict=True
    ):
        terms = zip(*(torch.split(x, _EXACT_TERMS, dim=1) for x in (a, rows)), strict=True)
        for left, right in terms:
            out += F.linear(left.float(), right.float()).to(torch.int32)
    return total


@functools.cache
def _has_exact_product() -> bool:
    """Whether torch's own int8 product is right here: on some CPUs pairs of products saturate."""
    most = torch.full((2, 256), 127, dtype=torch.int8)
    try:
        got = torch._int_mm(most, torch.cat([most, -most]).t())
    except (AttributeError, RuntimeError):
        return False
    sum_ = 127 * 127 * 256
    return got.tolist() == [[sum_, sum_, -sum_, -sum_]] * 2


class Int8Linear(nn.Module):
    """A linear layer ``[..., inputs] -> [..., outputs]``. It is made without its numbers."""

    def __init__(self, in_features: int, out_features: int, *, has_bias: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight, self.scale = _empty(out_features, in_features)
        self.bias = _parameter(out_features) if has_bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Scale each row to absmax 127, multiply as integers, scale back."""
        rows = x.reshape(-1, self.in_features).float()
        step = rows.abs().amax(dim=-1, keepdim=True).clamp_min(_TINY) / 127
        numbers = torch.round(rows / step).to(torch.int8)
        out = multiply(numbers, self.weight).float().mul_(step).mul_(self.scale)
        if self.bias is not None:
            out += self.bias
        return out.view(*x.shape[:-1], self.out_features).to(x.dtype)


class ByRows(nn.Module):
    """A function of single numbers (SiLU, say), the same for a row whoever shares the batch.

    What is left over at the end of a thread's part torch computes in another way than the vectors
    before, different in the last bit; which numbers those are depends on how many rows there are.
    """

    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Compute few enough rows at a time."""
        width = x.shape[-1]
        count = max(1, _ONE_THREAD // width) if width % _WHOLE_VECTORS == 0 else 1
        if not x.is_cpu or x.numel() <= count * width:
            return self.function(x)  # type: ignore[no-any-return]
        pieces = torch.split(x.reshape(-1, width), count)
        return torch.cat([self.function(piece) for piece in pieces]).view(x.shape)


def is_int8(model: nn.Module) -> bool:
    """Whether a network computes by int8 weights."""
    return any(isinstance(module, Int8Linear) for module in model.modules())


class Int8Embedding(nn.Module):
    """A table of embeddings, made without its numbers.

    Args:
        factor: what every embedding is multiplied by.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, factor: float) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight, self.scale = _empty(num_embeddings, embedding_dim)
        self._factor = factor

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ``ids`` [...] as float32 ``[..., embedding_dim]``."""
        rows = F.embedding(ids, self.weight).float()
        return rows * (self.scale[ids] * self._factor).unsqueeze(-1)


def _empty(rows: int, columns: int) -> tuple[nn.Parameter, nn.Parameter]:
    return _parameter(rows, columns, dtype=torch.int8), _parameter(rows)


def _parameter(*shape: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)
