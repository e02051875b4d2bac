"""LoRA adapters as the extension takes them: a low-rank addition to each fused matrix."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmos.engines.native.binding import CLowRank
from llmos.engines.native.lora import Adapter, LowRank, check_modules
from llmos.engines.native.quantize import Quantized, interleave
from llmos.library.quantized import MATRICES, Structure

_GATE_UP = MATRICES.index("gate_up")


class FusedAdapter:
    """An adapter as the extension wants it: per layer one low-rank addition to each fused matrix.

    The ranks of the parts of a fused matrix (queries, keys, values) are laid side by side.
    """

    def __init__(self, adapter: Adapter, quantized: Quantized) -> None:
        found = quantized.structure
        sites = _adapter_sites(found, len(quantized.layers))
        check_modules(adapter, {path: site.size for path, site in sites.items()}, "this model")
        parts: dict[int, list[tuple[_Site, LowRank]]] = {}
        for path, update in adapter.modules.items():
            parts.setdefault(sites[path].number, []).append((sites[path], update))
        self._tensors: list[Tensor] = []
        self._table = (CLowRank * (len(MATRICES) * len(quantized.layers)))()
        for number, updates in parts.items():
            layer, which = divmod(number, len(MATRICES))
            packed = quantized.layers[layer].matrices[MATRICES[which]].packed
            a, b = _stack(updates, packed.n, found.intermediate if which == _GATE_UP else None)
            self._tensors += [a, b]
            self._table[number] = CLowRank(a.data_ptr(), b.data_ptr(), *a.shape)
        self.address = ctypes.addressof(self._table)
        self.num_bytes = sum(tensor.nbytes for tensor in self._tensors)


@dataclass(frozen=True, slots=True)
class _Site:
    """Where a module of the model lies: rows from ``first`` of the fused matrix ``number``, or for
    gate and up of one half of it."""

    number: int
    size: tuple[int, int]  # inputs, outputs
    first: int


def _adapter_sites(found: Structure, num_layers: int) -> dict[str, _Site]:
    queries, keys = found.heads * found.head_dim, found.kv_heads * found.head_dim
    wide = found.intermediate
    parts = (
        ("self_attn.q_proj", 0, found.hidden, queries, 0),
        ("self_attn.k_proj", 0, found.hidden, keys, queries),
        ("self_attn.v_proj", 0, found.hidden, keys, queries + keys),
        ("self_attn.qkv_proj", 0, found.hidden, queries + 2 * keys, 0),
        ("self_attn.o_proj", 1, queries, found.hidden, 0),
        ("mlp.gate_proj", 2, found.hidden, wide, 0),
        ("mlp.up_proj", 2, found.hidden, wide, wide),
        ("mlp.gate_up_proj", 2, found.hidden, 2 * wide, 0),
        ("mlp.down_proj", 3, wide, found.hidden, 0),
    )
    return {
        f"model.layers.{layer}.{path}": _Site(len(MATRICES) * layer + which, (inputs, outputs), at)
        for layer in range(num_layers)
        for path, which, inputs, outputs, at in parts
    }


def _stack(
    updates: Sequence[tuple[_Site, LowRank]], n: int, gated: int | None
) -> tuple[Tensor, Tensor]:
    """Return ``a`` [ranks, inputs] and ``b`` [n, ranks] that add all updates to one fused matrix.

    ``gated``: how many rows its gate has, if it is made of a gate and another matrix.
    """
    a = torch.cat([update.a for _, update in updates]).contiguous()
    b = torch.zeros(2 * gated if gated else n, a.shape[0])
    column = 0
    for site, update in updates:
        rank, rows = update.a.shape[0], site.size[1]
        b[site.first : site.first + rows, column : column + rank] = update.b * update.scaling
        column += rank
    if gated:
        b = interleave(b[:gated], b[gated:])
    return a, F.pad(b, (0, 0, 0, n - b.shape[0])).contiguous()
