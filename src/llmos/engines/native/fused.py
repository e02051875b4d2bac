"""Runs quantised Llama-like decoders through the C++ extension: one call a step.

Keys and values are kept as float16, in blocks of 16 tokens.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from ctypes import byref
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.binding import CChunk, CLayer, CLinear, CShape, CStep, declare
from llmos.engines.native.fused_adapters import FusedAdapter
from llmos.engines.native.lora import read_adapter
from llmos.engines.native.quantize import Layer, Matrix, Quantized
from llmos.engines.native.restore import Excerpt, restore
from llmos.errors import InvalidModelError, OutOfMemoryError

log = logging.getLogger(__name__)

BLOCK_SIZE = 16
_MAX_ERROR = 0.05
"""Of a layer's output, relative: 8-bit activations cost a tenth of it, a wrong structure all."""
_CHECK_TOKENS = 24
_MAX_CHECKED_WINDOW = 512
"""A prompt longer than a wider window would make every load slow."""


class FusedRunner:
    """A Runner (see ``runner``) over the extension.

    Args:
        library: the extension.
        quantized: the model; its mapped weights are kept.
        threads: how many compute a step.
    """

    is_paged = True

    def __init__(self, library: ctypes.CDLL, quantized: Quantized, threads: int) -> None:
        declare(library)
        found = quantized.structure
        self._library = library
        self._quantized = quantized
        self._vocab = found.vocab
        layers = (CLayer * len(found.layers))(
            *(
                _layer(layer, kind.window, kind.rotary)
                for layer, kind in zip(quantized.layers, found.layers, strict=False)
            )
        )
        num_layers = len(quantized.layers)
        shape = CShape(
            found.hidden,
            found.heads,
            found.kv_heads,
            found.head_dim,
            found.intermediate,
            found.vocab,
            num_layers,
            found.activation,
            found.eps,
            found.attention_scale,
            found.attention_softcap,
            found.logits_softcap,
            found.embedding_scale,
            found.rotary_dim,
        )
        self._decoder = library.llmos_decoder_new(
            byref(shape),
            layers,
            byref(_linear(quantized.embedding)),
            byref(_linear(quantized.head)),
            quantized.norm.data_ptr(),
            threads,
        )
        self._frequencies = torch.tensor([kind.inverse_frequencies for kind in found.rotary])
        self._factors = torch.tensor([kind.factor for kind in found.rotary])
        self._numbers_per_token = found.kv_heads * found.head_dim
        self._cache: Tensor | None = None
        self._num_blocks = 0
        self.kv_bytes_per_token = 2 * 2 * self._numbers_per_token * num_layers
        self._adapters: dict[str, FusedAdapter] = {}

    def __del__(self) -> None:
        if decoder := getattr(self, "_decoder", None):
            self._library.llmos_decoder_free(decoder)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make the cache: keys, then values, of every layer. What it holds at first is not used."""
        assert block_size == BLOCK_SIZE, "the extension's blocks hold 16 tokens"
        num_layers = len(self._quantized.layers)
        layer_size = num_blocks * block_size * self._numbers_per_token
        self._cache = torch.empty(2, num_layers, layer_size, dtype=torch.float16)
        self._num_blocks = num_blocks
        keys, values = self._cache[0].data_ptr(), self._cache[1].data_ptr()
        self._library.llmos_decoder_set_cache(self._decoder, keys, values, layer_size)

    def workspace_bytes(self, num_tokens: int) -> int:
        """Return what the extension takes beside weights and cache for a step of so many tokens."""
        return num_tokens * self._quantized.structure.workspace_bytes_per_token

    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Return float32 logits ``[sum of num_logits, vocab]``, in order."""
        wanted = sum(chunk.num_logits for chunk in chunks)
        logits = torch.empty(wanted, self._vocab, dtype=torch.float32)
        self._step(chunks, logits=logits if wanted else None)
        return logits

    def states(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Return what the head would be given ``[sum of num_logits, hidden]``."""
        wanted = sum(chunk.num_logits for chunk in chunks)
        states = torch.empty(wanted, self._quantized.structure.hidden, dtype=torch.float32)
        self._step(chunks, states=states)
        return states

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """Nothing to do: what a masked slot holds is never read."""

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        """See ``Runner``."""
        return [part[list(blocks)] for part in self._per_block()]

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None:
        """See ``Runner``."""
        for part, filling in zip(self._per_block(), numbers, strict=True):
            part[list(blocks)] = filling

    def _per_block(self) -> Sequence[Tensor]:
        """Return keys, then values, of each layer as ``[num_blocks, numbers of a block]``."""
        assert self._cache is not None
        return self._cache.view(-1, self._num_blocks, BLOCK_SIZE * self._numbers_per_token).unbind()

    def load_adapter(self, key: str, path: Path) -> int:
        """Read the adapter in directory ``path``; return its bytes. Raises InvalidModelError."""
        self._adapters[key] = loaded = FusedAdapter(read_adapter(path), self._quantized)
        return loaded.num_bytes

    def drop_adapter(self, key: str) -> None:
        """Forget an adapter that no row wants any more."""
        self._adapters.pop(key, None)

    def _step(
        self, chunks: Sequence[RowChunk], logits: Tensor | None = None, states: Tensor | None = None
    ) -> None:
        token_ids = np.fromiter((t for c in chunks for t in c.token_ids), dtype=np.int32)
        spans = [np.arange(chunk.start, chunk.end, dtype=np.int32) for chunk in chunks]
        tables = [np.asarray(chunk.blocks, dtype=np.int32) for chunk in chunks]
        slots = np.concatenate(
            [
                table[span // BLOCK_SIZE] * BLOCK_SIZE + span % BLOCK_SIZE
                for table, span in zip(tables, spans, strict=True)
            ]
        )
        lasts = np.cumsum([len(chunk.token_ids) for chunk in chunks])
        described = (CChunk * len(chunks))(
            *(
                CChunk(
                    first=last - len(chunk.token_ids),
                    count=len(chunk.token_ids),
                    start=chunk.start,
                    blocks=_at(table),
                    adapter=self._adapters[chunk.adapter].address if chunk.adapter else None,
                )
                for chunk, last, table in zip(chunks, lasts.tolist(), tables, strict=True)
            )
        )
        wanted = np.concatenate(
            [
                np.arange(last - chunk.num_logits, last, dtype=np.int32)
                for chunk, last in zip(chunks, lasts.tolist(), strict=True)
            ]
        )
        for out in (logits, states):
            assert out is None or (out.dtype is torch.float32 and len(out) == len(wanted))
        cos, sin = self._rotary(np.concatenate(spans))
        step = CStep(
            tokens=len(token_ids),
            chunks=len(chunks),
            wanted=len(wanted),
            token_ids=_at(token_ids),
            slots=_at(slots),
            cos=cos.data_ptr(),
            sin=sin.data_ptr(),
            chunk=ctypes.addressof(described),
            wanted_tokens=_at(wanted),
            logits=None if logits is None else logits.data_ptr(),
            states=None if states is None else states.data_ptr(),
        )
        if not self._library.llmos_decoder_step(self._decoder, byref(step)):
            raise OutOfMemoryError("There is no memory for a step of this size.")

    def _rotary(self, positions: Any) -> tuple[Tensor, Tensor]:
        """Return cosines and sines ``[kinds, tokens, rotary_dim]``, as transformers computes."""
        angles = torch.from_numpy(positions).float()[None, :, None] * self._frequencies[:, None]
        angles = torch.cat([angles, angles], dim=-1)
        factors = self._factors[:, None, None]
        return (angles.cos() * factors).contiguous(), (angles.sin() * factors).contiguous()


def fused_runner(
    library: ctypes.CDLL, quantized: Quantized, path: Path, threads: int
) -> FusedRunner | None:
    """Return a runner that was seen to do what the model's own layers do; None if not."""
    try:
        check_layers(library, quantized, path)
    except InvalidModelError as error:
        log.warning("the model of %s is run by torch: %s", path, error)
        return None
    return FusedRunner(library, quantized, threads)


def check_layers(library: ctypes.CDLL, quantized: Quantized, path: Path) -> None:
    """Compare a layer of each kind, and their logits, with transformers' on the same weights.

    Raises:
        InvalidModelError: the extension does not reproduce them.
    """
    sample, indices = _one_of_each_kind(quantized)
    window = max(kind.window for kind in sample.structure.layers)
    num_tokens = window + _CHECK_TOKENS if window <= _MAX_CHECKED_WINDOW else _CHECK_TOKENS
    num_blocks = -(-num_tokens // BLOCK_SIZE)
    runner = FusedRunner(library, sample, threads=1)
    runner.allocate(num_blocks, BLOCK_SIZE)
    ids = [i * 7919 % sample.structure.vocab for i in range(num_tokens)]
    chunk = RowChunk("check", ids, 0, list(range(num_blocks)), len(ids))
    states, logits = _reference(sample, path, indices, ids)
    ours = (runner.states([chunk]), states), (runner.run([chunk])[:, ids], logits)
    error = max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in ours)
    if not error <= _MAX_ERROR:
        raise InvalidModelError(
            f"The extension does not reproduce its layers (relative error {error:.3f})."
        )


def _one_of_each_kind(quantized: Quantized) -> tuple[Quantized, list[int]]:
    """Return a model of the first layer of each kind, and which layers those are."""
    kinds = [
        (kind, *layer.norms)
        for kind, layer in zip(quantized.structure.layers, quantized.layers, strict=True)
    ]
    indices = [i for i, kind in enumerate(kinds) if kinds.index(kind) == i]
    structure = msgspec.structs.replace(
        quantized.structure, layers=tuple(quantized.structure.layers[i] for i in indices)
    )
    layers = tuple(quantized.layers[i] for i in indices)
    return replace(quantized, structure=structure, layers=layers), indices


@torch.inference_mode()
def _reference(
    sample: Quantized, path: Path, indices: Sequence[int], ids: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Return the states after the layers, and the logits of the tokens themselves."""
    model = restore(sample, path, Excerpt(indices, ids))
    positions = torch.arange(len(ids))[None]
    states: Tensor = model.model(positions, use_cache=False).last_hidden_state
    logits: Tensor = model(positions, use_cache=False).logits
    return states[0], logits[0]


def _linear(matrix: Matrix) -> CLinear:
    packed = matrix.packed
    return CLinear(
        packed.data.data_ptr(),
        None if packed.scale is None else packed.scale.data_ptr(),
        None if matrix.bias is None else matrix.bias.data_ptr(),
        packed.n,
        packed.k,
        packed.bits,
        0,
    )


def _layer(layer: Layer, window: int, rotary: int) -> CLayer:
    norms = {name: norm.data_ptr() for name, norm in layer.norms.items()}
    matrices = {name: _linear(matrix) for name, matrix in layer.matrices.items()}
    return CLayer(**matrices, **norms, window=window, rotary=rotary)


def _at(array: Any) -> int:
    address: int = array.ctypes.data
    return address
