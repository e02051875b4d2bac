"""Attention over the paged cache for one packed step, called by transformers' own layers.

``PackedStep`` describes the step; ``steps`` makes it. It is the context variable ``current_step``
while the model's forward runs, because not every architecture hands keywords down to
``paged_attention``, which every layer calls in place of its usual kernel.
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
class RowGroup:
    """Rows whose attention is computed together, as ``[N, L]`` tokens; their own are neighbours in
    the packed row, ``first:last`` of it, and short rows are padded with their last one.

    It must be their own: what is masked still counts as 0 * value, and NaN * 0 is NaN.
    """

    first: int
    last: int
    positions: Tensor  # [N, L]
    blocks: Tensor | None
    """[N, B], padded with the row's first. None: all rows begin at position 0, with no past."""
    padding: Tensor | None = None
    """[N * L] which of the group's tokens is at each place; None: all rows are of one length."""
    places: Tensor | None = None
    """[last - first] at which place each of the group's tokens is; None with ``padding``."""

    def padded(self, packed: Tensor) -> Tensor:
        """Return the rows' part of ``packed`` [H, T, D] as [N, H, L, D]."""
        own = packed[:, self.first : self.last]
        if self.padding is not None:
            own = own.index_select(1, self.padding)
        heads, _, dim = packed.shape
        return own.reshape(heads, *self.positions.shape, dim).transpose(0, 1)

    def unpadded(self, rows: Tensor) -> Tensor:
        """Return ``rows`` [N, H, L, D] as [last - first, H, D]."""
        flat = rows.transpose(1, 2).flatten(0, 1)
        return flat if self.places is None else flat.index_select(0, self.places)


@dataclass(slots=True)
class PackedStep:
    """One step: the tokens of all rows in one packed row, group by group.

    With ``cache=None`` (probing a model) no row may have keys but its own.
    """

    cache: KVCache | None
    inputs: Tensor  # [2, T] token ids, positions
    slots: Tensor  # [T] where each token's keys and values go
    groups: tuple[RowGroup, ...]
    shapes: dict[int, LayerShape] = field(default_factory=dict)
    """The layers that called, as they called."""
    windows: dict[int, int | None] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    """Tensors that layers passed and we do not know, as attention sinks."""
    is_exact: bool = False
    """Attend in float64, so that a row's float32 result does not depend on who shares the step."""
    _masks: dict[tuple[int, int | None], Tensor] = field(default_factory=dict)

    def mask(self, index: int, window: int | None, like: Tensor, num_keys: int) -> Tensor:
        """Return what the rows of a group may see, as an additive mask ``[N or 1, 1, L, num_keys]``
        that all layers share."""
        if (mask := self._masks.get((index, window))) is None:
            group = self.groups[index]
            keys = torch.arange(num_keys, device=like.device)
            positions = keys[None] if group.blocks is None else group.positions
            queries = positions[:, None, :, None]
            seen = keys <= queries
            if window is not None:
                seen &= keys > queries - window
            mask = torch.zeros(seen.shape, dtype=like.dtype, device=like.device)
            self._masks[index, window] = mask.masked_fill_(~seen, -torch.inf)
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
    for index, group in enumerate(step.groups):
        own = [group.padded(packed[0]) for packed in (query, key, value)]
        parts.append(group.unpadded(_attend(step, layer, index, own, scale, softcap)))
    attended = parts[0] if len(parts) == 1 else torch.cat(parts)
    return attended[None].to(query.dtype), None


def _attend(
    step: PackedStep,
    layer: int,
    index: int,
    own: Sequence[Tensor],
    scale: float,
    softcap: float | None,
) -> Tensor:
    """Attend a group's tokens, ``own`` query, key and value [N, heads, L, D], to themselves and to
    what is cached before them. Returns ``[N, H, L, D_value]``."""
    query, key, value = own
    group, window = step.groups[index], step.windows[layer]
    rows, heads, length, _ = query.shape
    if group.blocks is not None:
        assert step.cache is not None
        key, value = step.cache.read(layer, group.blocks)
    if step.is_exact:
        query, key, value = query.double(), key.double(), value.double()
    if group.blocks is None and softcap is None and (window is None or window >= length):
        # Padding comes last, so no token sees it.
        key, value = _repeated(key, heads), _repeated(value, heads)
        return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)
    mask = step.mask(index, window, query, key.shape[2])
    if length == 1:  # query heads that share keys act as further tokens
        grouped = query.reshape(rows, key.shape[1], -1, query.shape[3])
        return _dense(grouped, key, value, mask, scale, softcap).reshape(rows, heads, 1, -1)
    key, value = _repeated(key, heads), _repeated(value, heads)
    return _dense(query, key, value, mask, scale, softcap)


def _repeated(keys: Tensor, heads: int) -> Tensor:
    """Repeat ``keys`` [N, KV, K, D] for all the query heads that share them."""
    group = heads // keys.shape[1]
    return keys.repeat_interleave(group, dim=1) if group > 1 else keys


def _dense(
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
    precise = torch.promote_types(query.dtype, torch.float32)
    return torch.softmax(scores, dim=-1, dtype=precise).to(query.dtype) @ values


def register() -> None:
    """Make ``attn_implementation="llmos_paged"`` known to transformers.

    No mask function goes with it: for a name without one, transformers makes no masks, where one
    that returns None would still have it look for packed sequences (and wait for a GPU) each step.
    """
    AttentionInterface.register(NAME, paged_attention)
