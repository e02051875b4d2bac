"""Runs a transformers decoder on one packed step and returns the logits that are wanted.

``PagedRunner`` keeps keys and values in our cache. ``RowwiseRunner`` is for architectures whose
attention does not go through it (ALiBi, attention sinks, recurrent state): each row keeps
transformers' own cache and runs alone. ``probe`` finds out which one a model needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llmos.engines.loading import Model
from llmos.engines.native import attention
from llmos.engines.native.attention import PackedStep, Prefill, RowChunk
from llmos.engines.native.cache import KVCache, LayerShape, bytes_per_token
from llmos.engines.native.lora import Adapters


class Runner(Protocol):
    """What the engine needs: the logits that the chunks ask for, in order,
    ``[sum of num_logits, vocab]``."""

    kv_bytes_per_token: int
    is_paged: bool
    """Whether keys and values lie in the blocks it is given, so that rows may share full blocks
    and take tokens back. If not, a row's chunks must follow each other from position 0."""

    def allocate(self, num_blocks: int, block_size: int) -> None: ...
    def run(self, chunks: Sequence[RowChunk]) -> Tensor: ...
    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None: ...

    def load_adapter(self, key: str, path: Path) -> int:
        """Read the adapter in directory ``path``; return its bytes on the device. May be called
        from another thread than the rest. Raises InvalidModelError: it does not fit."""
        ...

    def drop_adapter(self, key: str) -> None: ...


class _Adapted:
    """The part of both runners that has adapters."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._adapters = Adapters(model)

    def load_adapter(self, key: str, path: Path) -> int:
        """See ``Runner``."""
        return self._adapters.load(key, path)

    def drop_adapter(self, key: str) -> None:
        """Forget an adapter that no row wants any more."""
        self._adapters.drop(key)


class PagedRunner(_Adapted):
    """Any decoder whose layers call transformers' attention interface."""

    is_paged = True

    def __init__(self, model: Model, layers: dict[int, LayerShape]) -> None:
        super().__init__(model)
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
        wanted = [
            index
            for chunk, end in zip(chunks, ends, strict=True)
            for index in range(end - chunk.num_logits, end)
        ]
        with self._adapters.applied(chunks):
            return forward(self._model, chunks, step, wanted)

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """A row has left; ``clear`` when its numbers must not reach the blocks' next owner."""
        if clear and self._cache is not None:
            self._cache.clear(blocks)


class RowwiseRunner(_Adapted):
    """Any decoder at all, one row at a time, each with the cache transformers makes for it.

    A prompt is computed in one go with its last chunk: layers with recurrent state take either a
    whole prompt or a single token.
    """

    kv_bytes_per_token = 0
    is_paged = False

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._caches: dict[str, DynamicCache] = {}
        self._held: dict[str, list[int]] = {}

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Caches grow with their rows; blocks only bound how many tokens may be held."""

    @torch.inference_mode()
    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Compute each chunk that asks for logits by itself, with those held back before it; it
        may ask for the logits of those too."""
        logits = []
        for chunk in chunks:
            if chunk.start == 0:
                self.forget(chunk.id, chunk.blocks, clear=False)
            held = self._held.setdefault(chunk.id, [])
            held += chunk.token_ids
            if count := chunk.num_logits:
                whole = dataclasses.replace(chunk, token_ids=self._held.pop(chunk.id))
                with self._adapters.applied([whole]):
                    output = self._compute(chunk.id, whole.token_ids, chunk.end)
                logits.append(output[-count:])
        return torch.cat(logits) if logits else torch.empty(0, 0)

    def _compute(self, row_id: str, token_ids: Sequence[int], end: int) -> Tensor:
        if row_id not in self._caches:
            self._caches[row_id] = DynamicCache(config=self._model.config)
        device = self._model.device
        output = self._model(
            input_ids=torch.tensor([list(token_ids)], device=device),
            attention_mask=torch.ones(1, end, dtype=torch.long, device=device),
            past_key_values=self._caches[row_id],
            use_cache=True,
        )
        logits: Tensor = output.logits[0]
        return logits

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """A row has left: drop its cache."""
        self._caches.pop(row_id, None)
        self._held.pop(row_id, None)


def forward(
    model: Model, chunks: Sequence[RowChunk], step: PackedStep, wanted: list[int]
) -> Tensor:
    """Run the packed row; return logits ``[len(wanted), vocab]`` at those indices of it."""
    device = step.slots.device
    token_ids = [token for chunk in chunks for token in chunk.token_ids]
    positions = [p for chunk in chunks for p in range(chunk.start, chunk.end)]
    packed = torch.tensor([token_ids, positions], device=device)
    keep = torch.tensor(wanted, dtype=torch.long, device=device)
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
    # Padded with a block of its own: what is masked still counts as 0 * value, and NaN * 0 is NaN.
    tables = [[*c.blocks, *[c.blocks[0]] * (width - len(c.blocks))] for c in decodes]
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
