"""Decode steps of fixed shapes, captured once as CUDA graphs and replayed from then on.

When each row computes one token, launching the many small kernels takes longer than their work; a
graph launches them at once. Rows, and the blocks they read, are padded to the next of few sizes, so
that few graphs serve all steps. Steps of other kinds are not for graphs.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from llmos.engines.loading import Model
from llmos.engines.native.attention import PackedStep, RowChunk, RowGroup
from llmos.engines.native.cache import KVCache
from llmos.engines.native.steps import block_row, forward, slot

MAX_ROWS = 64
MIN_BLOCKS = 8

Compute = Callable[[], None]
Capture = Callable[[Compute], Compute]
"""Takes what computes from given tensors into given tensors; returns what does the same again."""


@dataclass(frozen=True, slots=True)
class _Decode:
    """A decode step of one shape."""

    inputs: Tensor  # [R, 3 + B] each row's token, position, slot and blocks
    compute: Compute
    """Kept because the graph's tensors are its."""
    replay: Compute


class DecodeGraphs:
    """Computes the steps it ``takes``, on ``cache``, whose block ``spare_block`` is no row's."""

    def __init__(self, model: Model, cache: KVCache, spare_block: int, capture: Capture) -> None:
        self._model = model
        self._cache = cache
        self._spare_block = spare_block
        self._capture = capture
        self._decodes: dict[tuple[int, int], _Decode] = {}
        self._logits: Tensor | None = None

    def takes(self, chunks: Sequence[RowChunk]) -> bool:
        """Whether every row computes one token, with its logits, on the base model."""
        return 0 < len(chunks) <= MAX_ROWS and all(
            len(chunk.token_ids) == chunk.num_logits == 1 and not chunk.adapter for chunk in chunks
        )

    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Return the logits ``[len(chunks), vocab]``. The next run overwrites them."""
        inputs = self._describe(chunks)
        shape = (inputs.shape[0], inputs.shape[1])
        if decode := self._decodes.get(shape):
            decode.inputs.copy_(inputs)
        else:
            decode = self._decodes[shape] = self._make(inputs)
        decode.replay()
        assert self._logits is not None
        return self._logits[: len(chunks)]

    def _describe(self, chunks: Sequence[RowChunk]) -> Tensor:
        width = _padded(max(MIN_BLOCKS, *(len(chunk.blocks) for chunk in chunks)))
        size = self._cache.block_size
        rows = [
            [*c.token_ids, c.start, slot(c, c.start, size), *block_row(c, width)] for c in chunks
        ]
        spare = [0, 0, self._spare_block * size, *[self._spare_block] * width]
        rows += [spare] * (_padded(len(chunks)) - len(chunks))
        return torch.tensor(rows)

    def _make(self, described: Tensor) -> _Decode:
        """Compute a step of a new shape, and capture it if that can be."""
        model, cache, inputs = self._model, self._cache, described.to(self._model.device)
        every = torch.arange(len(inputs), device=inputs.device)
        with _DeviceReads() as reads:  # type: ignore[no-untyped-call]
            logits = _logits(model, cache, inputs, every)
        if self._logits is None:  # one for all shapes: each graph's own would add up
            self._logits = logits.new_empty(MAX_ROWS, logits.shape[1])
        wanted = self._logits[: len(inputs)]

        def compute() -> None:
            wanted.copy_(_logits(model, cache, inputs, every))

        return _Decode(inputs, compute, compute if reads.were_seen else self._captured(compute))

    def _captured(self, compute: Compute) -> Compute:
        try:
            return self._capture(compute)
        except RuntimeError:  # no memory, or something else that a graph cannot do
            return compute


def _logits(model: Model, cache: KVCache, inputs: Tensor, every: Tensor) -> Tensor:
    """Compute a step described by ``inputs`` (see ``_Decode``), ``every`` being its rows."""
    group = RowGroup(0, len(every), positions=inputs[:, 1:2], blocks=inputs[:, 3:])
    return forward(model, PackedStep(cache, inputs[:, :2].T, inputs[:, 2], (group,)), every)


def _padded(count: int) -> int:
    """Return the next power of two."""
    return 1 << (count - 1).bit_length()


class _DeviceReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whether a computation looks at numbers it has computed, to decide what comes next (a
    mixture of experts, rotary embeddings that grow). A graph would always do what it did first."""

    were_seen = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if torch.Tag.data_dependent_output in func.tags:
            self.were_seen = True
        elif torch.Tag.dynamic_output_shape in func.tags or "index_put" in func.name():
            self.were_seen |= "aten::index" not in func.name() or _has_mask(args[1])
        with self:  # in inference mode, what is made of other operations comes whole
            out = func.decompose(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if out is NotImplemented else out


def _has_mask(indices: Sequence[Tensor | None]) -> bool:
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def capture_for(device: torch.device) -> Capture | None:
    """Return what captures on ``device``; None where launching costs nothing."""
    return _CudaCapture(device) if device.type == "cuda" else None


class _CudaCapture:
    """Captures CUDA graphs that share the memory for what they compute in between."""

    _one_at_a_time = threading.Lock()

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _capture_stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Compute) -> Compute:
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        with self._one_at_a_time, torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_stream(before)
            compute()  # what a stream makes for itself at its first use is no part of a graph
            # Another thread may be loading a model: what it does must not end the capture.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                compute()
        before.wait_stream(self._stream)
        return graph.replay


@functools.cache
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all models, as the memory that a stream makes for its matrix products is kept."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
