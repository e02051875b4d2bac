"""The tensors of the paged KV cache. Which blocks are free, and whose, is kept in ``blocks``.

A block holds the keys and values of ``block_size`` consecutive tokens of one row, in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Sizes of one layer's keys and values."""

    num_kv_heads: int
    key_dim: int
    value_dim: int

    @property
    def numbers_per_token(self) -> int:
        return self.num_kv_heads * (self.key_dim + self.value_dim)


class KVCache:
    """Keys and values of every layer: ``[num_blocks * block_size, num_kv_heads, dim]`` each.

    Memory is zeroed, because a masked key still takes part as 0 * value, and NaN * 0 is NaN.
    """

    def __init__(
        self,
        layers: dict[int, LayerShape],
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._device = device
        slots = num_blocks * block_size

        def zeros(heads: int, dim: int) -> Tensor:
            return torch.zeros(slots, heads, dim, dtype=dtype, device=device)

        self._keys = {i: zeros(s.num_kv_heads, s.key_dim) for i, s in layers.items()}
        self._values = {i: zeros(s.num_kv_heads, s.value_dim) for i, s in layers.items()}

    def write(self, layer: int, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store ``keys`` and ``values`` ``[T, num_kv_heads, dim]`` at ``slots`` ``[T]``."""
        self._keys[layer].index_copy_(0, slots, keys)
        self._values[layer].index_copy_(0, slots, values)

    def read(self, layer: int, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Gather ``blocks`` [R, B] as keys and values [R, num_kv_heads, B * block_size, dim]."""
        return self._gather(self._keys[layer], blocks), self._gather(self._values[layer], blocks)

    def _gather(self, stored: Tensor, blocks: Tensor) -> Tensor:
        rows = blocks.shape[0]
        per_block = stored.view(self.num_blocks, -1)
        gathered = per_block.index_select(0, blocks.flatten())
        return gathered.view(rows, -1, stored.shape[1], stored.shape[2]).transpose(1, 2)

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        """Return copies of ``blocks`` in host memory: ``[len(blocks), …]`` of each tensor."""
        index = torch.tensor(blocks, dtype=torch.long, device=self._device)
        return [part.index_select(0, index).cpu() for part in self._per_block()]

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None:
        """Fill ``blocks`` with what `read_blocks` returned."""
        index = torch.tensor(blocks, dtype=torch.long, device=self._device)
        for part, filling in zip(self._per_block(), numbers, strict=True):
            part.index_copy_(0, index, filling.to(self._device))

    def _per_block(self) -> list[Tensor]:
        """Return every tensor as ``[num_blocks, numbers of a block]``."""
        stored = (*self._keys.values(), *self._values.values())
        return [tensor.view(self.num_blocks, -1) for tensor in stored]

    def clear(self, blocks: Sequence[int]) -> None:
        """Zero ``blocks``: they may hold NaN that would spread to their next owner."""
        index = torch.tensor(blocks, dtype=torch.long, device=self._device)
        for part in self._per_block():
            part.index_fill_(0, index, 0)


def bytes_per_token(layers: dict[int, LayerShape], dtype: torch.dtype) -> int:
    """Return the cache bytes one token takes in all layers."""
    return sum(shape.numbers_per_token for shape in layers.values()) * dtype.itemsize
