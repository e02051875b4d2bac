"""The layout of quantised weights: tiles of 64 output columns, as the extension reads them.

int8, per output column: ``[N/64, K/4, 64, 4]`` bytes ``w + 128`` and float32 scales ``[N]``.
int4, per column and 32 inputs: ``[N/64, K/32, 1152]`` bytes: 1,024 of nibbles ``w + 8``, then 64
float16 scales. N and K are rounded up to multiples of 64 with zeros. The layout does not depend on
the machine; `unpack` gives the weights back to any other, as plain rows of int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from llmos.engines.native.int8 import Int8, quantize_rows
from llmos.library.quantized import GROUP, GROUP_BYTES, TILE, packed_bytes, round_up

_NIBBLES_BYTES = GROUP * TILE // 2
_ROWS_AT_ONCE = 64 * TILE
"""Few enough that copies of them are small beside a vocabulary's."""
_INT4_SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8)

Bits = Literal[4, 8]


@dataclass(frozen=True, slots=True)
class Packed:
    """A weight matrix: ``data`` is uint8; ``scale`` float32 [N], for int4 inside the data."""

    data: Tensor
    scale: Tensor | None
    bits: Bits
    rows: int
    columns: int

    @property
    def n(self) -> int:
        return round_up(self.rows)

    @property
    def k(self) -> int:
        return round_up(self.columns)

    @property
    def num_bytes(self) -> int:
        """How many bytes the data must have."""
        return packed_bytes(self.rows, self.columns, self.bits)


def pack(weight: Tensor, bits: Bits) -> Packed:
    """Quantise a weight ``[rows, columns]`` (output by input) of any floating-point type."""
    rows, columns = weight.shape
    pieces = [_pack_rows(piece, bits) for piece in torch.split(weight, _ROWS_AT_ONCE)]
    scales = [scale for _, scale in pieces if scale is not None]
    data = torch.cat([data for data, _ in pieces])
    return Packed(data, torch.cat(scales) if scales else None, bits, rows, columns)


def _pack_rows(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor | None]:
    rows, columns = weight.shape
    padded = torch.zeros(round_up(rows), round_up(columns))
    padded[:rows, :columns] = weight
    return _pack_int8(padded) if bits == 8 else (_pack_int4(padded), None)


def unpack(packed: Packed) -> Int8:
    """Return the weights as rows of int8: those of an int8 matrix as they are, others rounded.

    They are copies, so that a file they were mapped from may go.
    """
    if packed.bits == 4:
        return quantize_rows(unpack_int4(packed))
    assert packed.scale is not None
    # Four inputs of an output lie together: moved as one number, which is many times faster.
    tiles = packed.data.view(torch.int32).view(packed.n // TILE, packed.k // 4, TILE)
    numbers = tiles.transpose(1, 2).contiguous().view(torch.uint8).view(packed.n, packed.k)
    return Int8(
        _signed(numbers[: packed.rows], packed.columns), packed.scale[: packed.rows].clone()
    )


def unpack_rows(packed: Packed, rows: Sequence[int]) -> Int8:
    """Return some rows of an int8 matrix."""
    assert packed.scale is not None
    index = torch.tensor(rows)
    tiles = packed.data.view(packed.n // TILE, packed.k // 4, TILE, 4)
    numbers = tiles[index // TILE, :, index % TILE].flatten(1)
    return Int8(_signed(numbers, packed.columns), packed.scale[index])


def unpack_int4(packed: Packed) -> Tensor:
    """Return the weights of an int4 matrix as float32 ``[rows, columns]``, exactly."""
    weight = _unpack_int4(packed.data, packed.n, packed.k)
    return weight[: packed.rows, : packed.columns].contiguous()


def _signed(numbers: Tensor, columns: int) -> Tensor:
    """Return bytes ``w + 128`` as int8 numbers w, without what fills up the tiles."""
    return numbers.bitwise_xor_(128).view(torch.int8)[:, :columns].contiguous()


def _pack_int8(weight: Tensor) -> tuple[Tensor, Tensor]:
    n, k = weight.shape
    rows = quantize_rows(weight)
    tiles = (rows.numbers.view(torch.uint8) ^ 128).view(n // TILE, TILE, k // 4, 4)
    return tiles.permute(0, 2, 1, 3).contiguous().flatten(), rows.scale


def _pack_int4(weight: Tensor) -> Tensor:
    n, k = weight.shape
    groups = weight.view(n, k // GROUP, GROUP)
    scale, numbers = _round_int4(groups)
    # [tile, group, pair, which of the pair, 64 outputs, 4 inputs]
    steps = numbers.view(n // TILE, TILE, k // GROUP, 4, 2, 4).permute(0, 2, 3, 4, 1, 5)
    nibbles = (steps[:, :, :, 0] | (steps[:, :, :, 1] << 4)).reshape(
        n // TILE, k // GROUP, _NIBBLES_BYTES
    )
    scales = scale.view(n // TILE, TILE, k // GROUP).transpose(1, 2).contiguous()
    return torch.cat([nibbles, scales.half().view(torch.uint8)], dim=-1).flatten()


def _round_int4(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return float16 scales and nibbles: of a few scales, per group the one with least error.

    The largest number in absolute value becomes -8, times a factor.
    """
    index = groups.abs().argmax(dim=-1, keepdim=True)
    extreme = groups.gather(-1, index) / -8
    best_error = torch.full_like(extreme, torch.inf)
    best_scale = torch.zeros_like(extreme)
    for shrink in _INT4_SHRINKS:
        scale = (extreme * shrink).half().float()
        error = (_int4(groups, scale) * scale - groups).square_().sum(dim=-1, keepdim=True)
        is_better = error < best_error
        best_error = torch.where(is_better, error, best_error)
        best_scale = torch.where(is_better, scale, best_scale)
    return best_scale[..., 0], (_int4(groups, best_scale) + 8).to(torch.uint8)


def _int4(groups: Tensor, scale: Tensor) -> Tensor:
    inverse = torch.where(scale == 0, 0.0, 1 / scale)
    return torch.round(groups * inverse).clamp_(-8, 7)


def _unpack_int4(data: Tensor, n: int, k: int) -> Tensor:
    blocks = data.view(n // TILE, k // GROUP, GROUP_BYTES)
    nibbles = blocks[..., :_NIBBLES_BYTES].reshape(n // TILE, k // GROUP, 4, TILE, 4)
    steps = torch.stack([nibbles & 15, nibbles >> 4], dim=3)
    numbers = steps.permute(0, 4, 1, 2, 3, 5).reshape(n, k // GROUP, GROUP).float() - 8
    scales = blocks[..., _NIBBLES_BYTES:].contiguous().view(torch.float16).float()
    scale = scales.transpose(1, 2).reshape(n, k // GROUP, 1)
    return (numbers * scale).reshape(n, k)
