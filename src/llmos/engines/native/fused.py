"""Runs quantised Llama-like decoders through the C++ extension: one call a step.

Keys and values are kept as float16, in blocks of 16 tokens.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from ctypes import byref
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.binding import CChunk, CLayer, CLinear, CShape, CStep, declare
from llmos.engines.native.fused_adapters import FusedAdapter
from llmos.engines.native.lora import read_adapter
from llmos.engines.native.quantize import Layer, Matrix, Quantized, restore
from llmos.errors import InvalidModelError

log = logging.getLogger(__name__)

BLOCK_SIZE = 16
_MAX_ERROR = 0.05
"""Of a layer's output, relative: 8-bit activations cost a tenth of it, a wrong structure all."""
_CHECK_TOKENS = 24


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
        self.kv_bytes_per_token = 2 * 2 * self._numbers_per_token * num_layers
        self._adapters: dict[str, FusedAdapter] = {}

    def __del__(self) -> None:
        if decoder := getattr(self, "_decoder", None):
            self._library.llmos_decoder_free(decoder)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Make the cache: keys, then values, of every layer. What it holds at first is never used."""
        assert block_size == BLOCK_SIZE, "the extension's blocks hold 16 tokens"
        num_layers = len(self._quantized.layers)
        layer_size = num_blocks * block_size * self._numbers_per_token
        self._cache = torch.empty(2, num_layers, layer_size, dtype=torch.float16)
        keys, values = self._cache[0].data_ptr(), self._cache[1].data_ptr()
        self._library.llmos_decoder_set_cache(self._decoder, keys, values, layer_size)

    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Return float32 logits ``[sum of num_logits, vocab]``, in order."""
        wanted = sum(chunk.num_logits for chunk in chunks)
        logits = torch.empty(wanted, self._vocab)
        self._step(chunks, logits=logits if wanted else None)
        return logits

    def states(self, chunks: Sequence[RowChunk]) -> Tensor:
        """Return what the head would be given ``[sum of num_logits, hidden]``."""
        wanted = sum(chunk.num_logits for chunk in chunks)
        states = torch.empty(wanted, self._quantized.structure.hidden)
        self._step(chunks, states=states)
        return states

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        """Nothing to do: what a masked slot holds is never read."""

    def load_adapter(self, key: str, path: Path) -> int:
        """Read the adapter in directory ``path``; return its bytes. Raises InvalidModelError."""
        self._adapters[key] = loaded = FusedAdapter(read_adapter(path), self._quantized)
        return loaded.num_bytes

    def drop_adapter(self, key: str) -> None:
        """Forget an adapter that no row wants any more."""
        self._adapters.pop(key, None)

    def _step(
        self, chunks: Sequence[RowChunk], logits: Tensor | None = None, states: Tensor | None = None
    ) -> list[int]:
        token_ids = np.fromiter((t for c in chunks for t in c.token_ids), dtype=np.int32)
        positions = np.concatenate([np.arange(c.start, c.end, dtype=np.int32) for c in chunks])
        tables = [np.asarray(chunk.blocks, dtype=np.int32) for chunk in chunks]
        slots = np.concatenate(
            [
                table[span // BLOCK_SIZE] * BLOCK_SIZE + span % BLOCK_SIZE
                for table, span in zip(tables, _spans(chunks), strict=True)
            ]
        ).astype(np.int32)
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
        best = np.full(len(wanted), -1, dtype=np.int32)
        cos, sin = self._rotary(positions)
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
            best=_at(best),
            states=None if states is None else states.data_ptr(),
        )
        self._library.llmos_decoder_step(self._decoder, byref(step))
        tokens: list[int] = best.tolist()
        return tokens

    def _rotary(self, positions: Any) -> tuple[Tensor, Tensor]:
        """Return cosines and sines ``[kinds, tokens, rotary_dim]``, as transformers computes."""
        angles = torch.from_numpy(positions).float()[None, :, None] * self._frequencies[:, None]
        angles = torch.cat([angles, angles], dim=-1)
        factors = self._factors[:, None, None]
        return (angles.cos() * factors).contiguous(), (angles.sin() * factors).contiguous()


def fused_runner(
    library: ctypes.CDLL, quantized: Quantized, path: Path, threads: int
) -> FusedRunner | None:
    """Return a runner that was seen to do what the model's own first layer does; None if not."""
    try:
        check_layer(library, quantized, path)
    except InvalidModelError as error:
        log.warning("the model of %s is run by torch: %s", path, error)
        return None
    return FusedRunner(library, quantized, threads)


def check_layer(library: ctypes.CDLL, quantized: Quantized, path: Path) -> None:
    """Compare the first layer, and logits made of it, with transformers' own on the same weights.

    Raises:
        InvalidModelError: the extension does not reproduce it.
    """
    found = quantized.structure
    first = Quantized(
        found, quantized.embedding, quantized.head, quantized.norm, quantized.layers[:1], 0
    )
    runner = FusedRunner(library, first, threads=1)
    runner.allocate(-(-_CHECK_TOKENS // BLOCK_SIZE), BLOCK_SIZE)
    ids = [i * 7919 % found.vocab for i in range(_CHECK_TOKENS)]
    blocks = list(range(-(-_CHECK_TOKENS // BLOCK_SIZE)))
    chunk = RowChunk("check", ids, 0, blocks, len(ids))
    states, logits = _reference(first, path, ids)
    ours = (runner.states([chunk]), states), (runner.run([chunk])[:, ids], logits)
    error = max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in ours)
    if not error <= _MAX_ERROR:
        raise InvalidModelError(
            f"The extension does not reproduce the first layer (relative error {error:.3f})."
        )


@torch.inference_mode()
def _reference(first: Quantized, path: Path, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the states after the layer, and the logits of the tokens themselves."""
    model = restore(first, path, ids)
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


def _spans(chunks: Sequence[RowChunk]) -> list[Any]:
    return [np.arange(chunk.start, chunk.end) for chunk in chunks]


def _at(array: Any) -> int:
    address: int = array.ctypes.data
    return address
