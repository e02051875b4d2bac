"""Runs a transformers decoder on one packed step and returns the logits that are wanted.

``PagedRunner`` keeps keys and values in our cache. ``RowwiseRunner`` is for architectures whose
attention does not go through it (ALiBi, attention sinks, recurrent state): each row keeps
transformers' own cache and runs alone. ``probe`` finds out which one a model needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from llmos.engines.loading import Model
from llmos.engines.native.attention import RowChunk
from llmos.engines.native.cache import KVCache, LayerShape, bytes_per_token
from llmos.engines.native.graphs import DecodeGraphs, capture_for
from llmos.engines.native.lora import Adapters
from llmos.engines.native.steps import forward, grouped, pack


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

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        """Return copies of blocks, if it is paged: ``[len(blocks), …]`` each, in host memory."""
        ...

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None:
        """Fill blocks with what `read_blocks` of such a runner returned."""
        ...

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
        self._decodes: DecodeGraphs | None = None
        self.kv_bytes_per_token = bytes_per_token(layers, model.dtype)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make the cache; raises torch's OutOfMemoryError where it does not fit."""
        self._decodes = None  # its graphs hold the cache there was
        # One block more than anybody is given: graphs write there what they compute for no row.
        self._cache = KVCache(self._layers, num_blocks + 1, block_size, self._dtype, self._device)
        if capture := capture_for(self._device):
            self._decodes = DecodeGraphs(self._model, self._cache, num_blocks, capture)

    @torch.inference_mode()
    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Compute ``chunks``. The logits may be overwritten by the next run."""
        assert self._cache is not None
        if self._decodes is not None and self._decodes.takes(chunks):
            return self._decodes.run(chunks)
        order = grouped(chunks)
        ordered = [chunks[i] for i in order]
        step, wanted = pack(ordered, self._cache, self._device, self._cache.block_size)
        with self._adapters.applied(ordered):
            logits = forward(self._model, step, wanted)
        return logits if order == sorted(order) else _unordered(logits, ordered, order)

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """A row has left; ``clear`` when its numbers must not reach the blocks' next owner."""
        if clear and self._cache is not None:
            self._cache.clear(blocks)

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        """See ``Runner``."""
        assert self._cache is not None
        return self._cache.read_blocks(blocks)

    @torch.inference_mode()
    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None:
        """See ``Runner``."""
        assert self._cache is not None
        self._cache.write_blocks(blocks, numbers)


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

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        """It is not paged: there is nothing in blocks."""
        raise NotImplementedError

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None:
        """It is not paged: there is nothing in blocks."""
        raise NotImplementedError


def _unordered(logits: Tensor, ordered: Sequence[RowChunk], order: Sequence[int]) -> Tensor:
    """Return the chunks' logits in the order they had before they were put in ``order``."""
    ends = accumulate(chunk.num_logits for chunk in ordered)
    parts = {
        i: logits[end - chunk.num_logits : end]
        for i, chunk, end in zip(order, ordered, ends, strict=True)
    }
    return torch.cat([parts[i] for i in range(len(parts))])
