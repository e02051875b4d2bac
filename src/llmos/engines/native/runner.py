"""Runs a transformers decoder on one packed step and returns the logits that are wanted.

``PagedRunner`` keeps keys and values in our cache. ``RowwiseRunner`` is for architectures whose
attention does not go through it (ALiBi, attention sinks, recurrent state): each row keeps
transformers' own cache and runs alone. ``probe`` finds out which one a model needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llmos.engines.loading import Model
from llmos.engines.native import attention
from llmos.engines.native.attention import PackedStep, Prefill, RowChunk
from llmos.engines.native.cache import KVCache, LayerShape, bytes_per_token


class Runner(Protocol):
    """What the engine needs: logits for the sampled chunks, in order, ``[num_sampled, vocab]``."""

    kv_bytes_per_token: int

    def allocate(self, num_blocks: int, block_size: int) -> None: ...
    def run(self, chunks: Sequence[RowChunk]) -> Tensor: ...
    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None: ...


class PagedRunner:
    """Any decoder whose layers call transformers' attention interface."""

    def __init__(self, model: Model, layers: dict[int, LayerShape]) -> None:
        self._model = model
        self._layers = layers
        self._device = model.device
        self._dtype = model.dtype
        self._cache: KVCache | None = None
        self.kv_bytes_per_token = bytes_per_token(layers, model.dtype)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make the cache; raises torch's OutOfMemoryError where it does not fit."""
        self._cache = KVCache(self._layers, num_blocks, block_size, self._dtype, self._device)

    @torch.inference_mode()
    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Compute ``chunks``; decoding rows come first, so that they are computed together."""
        assert self._cache is not None
        step = pack(chunks, self._cache, self._device, self._cache.block_size)
        ends = _cumulative(len(chunk.token_ids) for chunk in chunks)
        sampled = [end - 1 for chunk, end in zip(chunks, ends, strict=True) if chunk.is_sampled]
        return forward(self._model, chunks, step, sampled)

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """A row has left; ``clear`` when its numbers must not reach the blocks' next owner."""
        if clear and self._cache is not None:
            self._cache.clear(blocks)


class RowwiseRunner:
    """Any decoder at all, one row at a time, each with the cache transformers makes for it.

    A prompt is computed in one go with its last chunk: layers with recurrent state take either a
    whole prompt or a single token.
    """

    kv_bytes_per_token = 0

    def __init__(self, model: Model) -> None:
        self._model = model
        self._caches: dict[str, DynamicCache] = {}
        self._held: dict[str, list[int]] = {}

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Caches grow with their rows; blocks only bound how many tokens may be held."""

    @torch.inference_mode()
    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Compute each sampled chunk by itself, together with those held back before it."""
        logits = []
        for chunk in chunks:
            if chunk.start == 0:
                self.forget(chunk.id, chunk.blocks, clear=False)
            held = self._held.setdefault(chunk.id, [])
            held += chunk.token_ids
            if chunk.is_sampled:
                logits.append(self._compute(chunk.id, self._held.pop(chunk.id), chunk.end))
        return torch.cat(logits) if logits else torch.empty(0, 0)

    def _compute(self, row_id: str, token_ids: list[int], end: int) -> Tensor:
        if row_id not in self._caches:
            self._caches[row_id] = DynamicCache(config=self._model.config)
        device = self._model.device
        output = self._model(
            input_ids=torch.tensor([token_ids], device=device),
            attention_mask=torch.ones(1, end, dtype=torch.long, device=device),
            past_key_values=self._caches[row_id],
            use_cache=True,
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """A row has left: drop its cache."""
        self._caches.pop(row_id, None)
        self._held.pop(row_id, None)


def forward(
    model: Model, chunks: Sequence[RowChunk], step: PackedStep, sampled: list[int]
) -> Tensor:
    """Run the packed row; return logits ``[len(sampled), vocab]`` at those indices of it."""
    device = step.slots.device
    token_ids = [token for chunk in chunks for token in chunk.token_ids]
    positions = [p for chunk in chunks for p in range(chunk.start, chunk.end)]
    packed = torch.tensor([token_ids, positions], device=device)
    keep = torch.tensor(sampled, dtype=torch.long, device=device)
    token = attention.current_step.set(step)
    try:
        output = model(
            input_ids=packed[:1], position_ids=packed[1:], use_cache=False, logits_to_keep=keep
        )
    finally:
        attention.current_step.reset(token)
    logits: Tensor = output.logits[0]
    return logits


def pack(
    chunks: Sequence[RowChunk],
    cache: KVCache | None,
    device: torch.device,
    block_size: int,
) -> PackedStep:
    """Describe a step; its leading chunks of a single token are computed together."""
    num_decodes = next(
        (i for i, chunk in enumerate(chunks) if len(chunk.token_ids) > 1), len(chunks)
    )
    decodes, rest = chunks[:num_decodes], chunks[num_decodes:]
    width = max((len(chunk.blocks) for chunk in decodes), default=0)
    tables = [[*chunk.blocks, *[0] * (width - len(chunk.blocks))] for chunk in decodes]
    slots = [
        chunk.blocks[position // block_size] * block_size + position % block_size
        for chunk in chunks
        for position in range(chunk.start, chunk.end)
    ]
    lasts = _cumulative(len(chunk.token_ids) for chunk in rest)
    prefills = tuple(
        Prefill(
            first=num_decodes + last - len(chunk.token_ids),
            last=num_decodes + last,
            start=chunk.start,
            end=chunk.end,
            blocks=torch.tensor([list(chunk.blocks)], device=device),
        )
        for chunk, last in zip(rest, lasts, strict=True)
    )
    return PackedStep(
        cache=cache,
        slots=torch.tensor(slots, dtype=torch.long, device=device),
        decode_blocks=torch.tensor(tables, dtype=torch.long, device=device).view(
            num_decodes, width
        ),
        decode_lengths=torch.tensor([c.end for c in decodes], dtype=torch.long, device=device),
        prefills=prefills,
    )


def _cumulative(counts: Iterable[int]) -> list[int]:
    total, sums = 0, []
    for count in counts:
        total += count
        sums.append(total)
    return sums
