"""Attention over the paged cache for one packed step, called by transformers' own layers.

``PackedStep`` describes the step. It is the context variable ``current_step`` while the model's
forward runs, because not every architecture hands keywords down to ``paged_attention``, which
every layer calls in place of its usual kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

from llmos.engines.native.cache import KVCache, LayerShape

NAME = "llmos_paged"


@dataclass(frozen=True, slots=True)
class RowChunk:
    """Consecutive tokens of one row: their ids, the position of the first, the row's blocks."""

    id: str
    token_ids: Sequence[int]
    start: int
    blocks: Sequence[int]
    num_logits: int
    """Logits are wanted after each of the last so many tokens."""
    adapter: str = ""
    """Key of a loaded adapter; empty: the base model."""

    def __post_init__(self) -> None:
        # Not of its own tokens alone: a runner that is not paged holds the ones before them back.
        assert 0 <= self.num_logits <= self.end, "logits are wanted of tokens that are not there"

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Prefill:
    """Tokens ``first:last`` of the packed row are positions ``start..end-1`` of one sequence."""

    first: int
    last: int
    start: int
    end: int
    blocks: Tensor  # [1, B]


@dataclass(slots=True)
class PackedStep:
    """One step: ``num_decodes`` single tokens first, then prefill chunks, packed in one row.

    With ``cache=None`` (probing a model) all of it must be one prefill from position 0.
    """

    cache: KVCache | None
    slots: Tensor  # [T] where each token's keys and values go
    decode_blocks: Tensor  # [R, B], padded with the row's first
    decode_lengths: Tensor  # [R] tokens to attend to, the new one included
    prefills: tuple[Prefill, ...]
    shapes: dict[int, LayerShape] = field(default_factory=dict)
    """The layers that called, as they called."""
    windows: dict[int, int | None] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    """Tensors that layers passed and we do not know, as attention sinks."""
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    @property
    def num_decodes(self) -> int:
        return self.decode_blocks.shape[0]

    def mask(self, index: int, window: int | None, like: Tensor, length: int) -> Tensor:
        """Return what prefill ``index`` (-1: the decodes) may see, as an additive mask.

        Decodes: ``[R, 1, 1, length]``. Prefill: ``[1, 1, T, length]``. Shared by all layers.
        """
        if (mask := self._masks.get((index, window))) is None:
            keys = torch.arange(length, device=like.device)
            if index < 0:
                queries = (self.decode_lengths - 1)[:, None, None, None]
            else:
                chunk = self.prefills[index]
                queries = torch.arange(chunk.start, chunk.end, device=like.device)[:, None]
            seen = keys <= queries
            if window is not None:
                seen &= keys > queries - window
            zeros = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
            mask = zeros.masked_fill_(~seen, -torch.inf)
            mask = mask if index < 0 else mask[None, None]
            self._masks[index, window] = mask
        return mask


current_step: ContextVar[PackedStep] = ContextVar("current_step")


def paged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attend ``query`` [1, H, T, D] to the cache and ``key``/``value`` [1, KV, T, D].

    Returns ``[1, T, H, D_value]``. A new ``sliding_window`` w lets a token see itself and the w-1
    before it; ``softcap`` c turns a score s into c*tanh(s/c) (Gemma 2, section 2).
    """
    step, layer = current_step.get(), module.layer_idx
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    step.shapes[layer] = LayerShape(key.shape[1], key.shape[3], value.shape[3])
    step.windows[layer] = sliding_window
    step.ignored |= {name for name, value in others.items() if isinstance(value, Tensor)}
    if step.cache is not None:
        step.cache.write(layer, step.slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    parts = []
    if count := step.num_decodes:
        parts.append(_decode(step, layer, query[0, :, :count], scale, sliding_window, softcap))
    for index, chunk in enumerate(step.prefills):
        rows = slice(chunk.first, chunk.last)
        fresh = (key[:, :, rows], value[:, :, rows]) if chunk.start == 0 else None
        parts.append(
            _prefill(step, layer, index, query[:, :, rows], fresh, scale, sliding_window, softcap)
        )
    packed = parts[0] if len(parts) == 1 else torch.cat(parts)
    return packed[None], None


def _decode(
    step: PackedStep,
    layer: int,
    query: Tensor,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """``query`` [H, R, D] -> [R, H, D_value]. Query heads that share keys act as extra tokens."""
    assert step.cache is not None
    heads, rows, dim = query.shape
    keys, values = step.cache.read(layer, step.decode_blocks)
    grouped = query.view(keys.shape[1], -1, rows, dim).permute(2, 0, 1, 3)
    mask = step.mask(-1, window, query, keys.shape[2])
    return _attend(grouped, keys, values, mask, scale, softcap).reshape(rows, heads, -1)


def _prefill(
    step: PackedStep,
    layer: int,
    index: int,
    query: Tensor,
    fresh: tuple[Tensor, Tensor] | None,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """``query`` [1, H, T, D] -> [T, H, D_value]; ``fresh`` are all the keys if none is cached."""
    chunk = step.prefills[index]
    if fresh is None:
        assert step.cache is not None
        keys, values = step.cache.read(layer, chunk.blocks)
        keys, values = keys[:, :, : chunk.end], values[:, :, : chunk.end]
    else:
        keys, values = fresh
    group = query.shape[1] // keys.shape[1]
    if group > 1:
        keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    mask = step.mask(index, window, query, chunk.end)
    return _attend(query, keys, values, mask, scale, softcap)[0].transpose(0, 1)


def _attend(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Scaled dot-product attention over ``[batch, heads, tokens, dim]`` with an additive mask."""
    if softcap is None:
        return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)
    scores = torch.tanh(query @ keys.transpose(-1, -2) * (scale / softcap)) * softcap + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ values


def register() -> None:
    """Make ``attn_implementation="llmos_paged"`` known to transformers.

    No mask function goes with it: for a name without one, transformers makes no masks, where one
    that returns None would still have it look for packed sequences (and wait for a GPU) each step.
    """
    AttentionInterface.register(NAME, paged_attention)
