"""Quantised decoders as files: written once, then mapped into memory as they are.

A directory holds config and tokenizer as before and ``quantized.safetensors`` in place of the
weights. In tiles, that is matrices packed as `packing` says, norms and biases as float32 rounded
up to tiles, and in the metadata the `Structure`; for rows see there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor

from llmos.engines.loading import Model
from llmos.engines.native import rows, structure
from llmos.engines.native.mapped import open_mapped
from llmos.engines.native.packing import Bits, Packed, pack
from llmos.engines.native.structure import LayerModules, Part
from llmos.engines.native.tensorfile import TensorWriter, read_tensors
from llmos.errors import InvalidModelError, UnsupportedTaskError
from llmos.library.files import QUANTIZED_FILE
from llmos.library.quantized import (
    HEAD_NORMS,
    MATRICES,
    NORMS,
    TILE,
    TILES,
    Structure,
    read_quantized,
    round_up,
)

_HALF = TILE // 2
_TENSORS_PER_LAYER = 3 * len(MATRICES) + len(NORMS)

QuantizedDtype = Literal["int8", "int4"]


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed weight and its bias ``[n]``, if it has one."""

    packed: Packed
    bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Layer:
    """Weights of a decoder layer; matrices by `MATRICES`, effective norm factors by `NORMS`."""

    matrices: dict[str, Matrix]
    norms: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Quantized:
    """A quantised decoder; its tensors are views of the mapped file."""

    structure: Structure
    embedding: Matrix
    head: Matrix
    norm: Tensor
    layers: tuple[Layer, ...]
    num_bytes: int

    def matrices(self) -> Iterator[Matrix]:
        """Yield every matrix that a token is multiplied with."""
        for layer in self.layers:
            yield from layer.matrices.values()
        yield self.head


def quantize_directory(
    source: Path,
    target: Path,
    dtype: QuantizedDtype,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    must_be_rows: bool = False,
) -> None:
    """Write the model of ``source`` to the new directory ``target`` with quantised weights.

    A Llama-like one is laid out in tiles, any other in rows (see ``library.quantized``). Embedding
    and head are int8 in either case.

    Args:
        progress: is told of parts done, of how many.
        must_be_rows: whatever the model is like.

    Raises:
        InvalidModelError: ``source`` holds no causal language model.
        UnsupportedTaskError: its weights are not in linear layers, or it is not Llama-like and was
            to be int4.
    """
    model = open_mapped(source)
    found = None if must_be_rows else structure.recognize(model)
    if found is None and dtype == "int4":
        raise UnsupportedTaskError(
            f"A {type(model).__name__} cannot be int4, its layers are not built like Llama's: "
            "quantise it to int8."
        )
    matrices = rows.int8_modules(model) if found is None else {}
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copy2(path, target / path.name)
    if found is None:
        rows.write(model, matrices, target, progress)
    else:
        _write_tiles(found, model, target, dtype, progress)


def _write_tiles(
    found: Structure,
    model: Model,
    target: Path,
    dtype: QuantizedDtype,
    progress: Callable[[int, int], None],
) -> None:
    metadata = {
        "format": TILES,
        "dtype": dtype,
        "structure": msgspec.json.encode(found).decode(),
    }
    count = _TENSORS_PER_LAYER * len(found.layers) + 5
    with TensorWriter(target / QUANTIZED_FILE, metadata, count) as writer:
        for name, tensor in _tensors(found, model, 8 if dtype == "int8" else 4, progress):
            writer.write(name, tensor)
        writer.finish()


@torch.inference_mode()
def _tensors(
    found: Structure, model: Model, bits: Bits, progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Tensor]]:
    total = len(found.layers) + 1
    yield from _packed("embedding", model.get_input_embeddings().weight, None, 8)
    if not found.is_tied:
        yield from _packed("head", model.get_output_embeddings().weight, None, 8)
    yield "norm", _padded(structure.norm_weight(model.model.norm, found.hidden))
    progress(1, total)
    for index, layer in enumerate(model.model.layers):
        modules = structure.layer_modules(layer)
        assert modules is not None, "recognised before"
        prefix = f"layers.{index}"
        for name, parts in matrix_parts(modules).items():
            weight, bias = _fused(name, parts)
            yield from _packed(f"{prefix}.{name}", weight, bias, bits)
        for name, norm in modules.norms.items():
            size = found.head_dim if name in HEAD_NORMS else found.hidden
            yield f"{prefix}.{name}", _padded(structure.norm_weight(norm, size))
        progress(index + 2, total)


def _packed(
    name: str, weight: Tensor, bias: Tensor | None, bits: Bits
) -> Iterator[tuple[str, Tensor]]:
    packed = pack(weight, bits)
    yield f"{name}.weight", packed.data
    if packed.scale is not None:
        yield f"{name}.scale", packed.scale
    if bias is not None:
        yield f"{name}.bias", _padded(bias.float())


def _padded(vector: Tensor) -> Tensor:
    out = torch.zeros(round_up(len(vector)))
    out[: len(vector)] = vector
    return out


def matrix_parts(modules: LayerModules) -> dict[str, tuple[Part, ...]]:
    return {
        "qkv": (modules.q, modules.k, modules.v),
        "output": (modules.output,),
        "gate_up": (modules.gate, modules.up),
        "down": (modules.down,),
    }


def _fused(name: str, parts: tuple[Part, ...]) -> tuple[Tensor, Tensor | None]:
    """Return one weight and bias for several parts, in the order the extension wants."""
    weight = _ordered(name, [part.weight() for part in parts])
    biases = [part.bias() for part in parts]
    if all(bias is None for bias in biases):
        return weight, None
    filled = [
        weight.new_zeros(part.last - part.first) if bias is None else bias
        for part, bias in zip(parts, biases, strict=True)
    ]
    return weight, _ordered(name, filled)


def _ordered(name: str, parts: list[Tensor]) -> Tensor:
    return interleave(*parts) if name == "gate_up" else torch.cat(parts)


def interleave(gate: Tensor, up: Tensor) -> Tensor:
    """Return rows of both in turns of 32, so that a tile holds the gates of its own columns."""
    size = -(-gate.shape[0] // _HALF) * _HALF
    both = [torch.cat([x, x.new_zeros(size - x.shape[0], *x.shape[1:])]) for x in (gate, up)]
    halves = [x.reshape(-1, _HALF, *x.shape[1:]) for x in both]
    return torch.stack(halves, dim=1).flatten(0, 2)


def separate(fused: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Undo `interleave`: return the first ``rows`` rows of the gate and of up."""
    halves = fused.reshape(-1, 2, _HALF, *fused.shape[1:])
    return halves[:, 0].flatten(0, 1)[:rows], halves[:, 1].flatten(0, 1)[:rows]


def open_quantized(path: Path) -> Quantized:
    """Map the quantised model of a directory whose file holds tiles.

    Raises:
        InvalidModelError: the file is missing, damaged, or of another format.
    """
    header = read_quantized(path)
    s = header.structure
    if s is None:
        raise InvalidModelError(f"{QUANTIZED_FILE} holds rows, which the extension does not read")
    bits: Bits = 8 if header.dtype == "int8" else 4
    tensors = read_tensors(path / QUANTIZED_FILE)

    def matrix(name: str, shape: tuple[int, int], bits: Bits) -> Matrix:
        scale = tensors[f"{name}.scale"] if bits == 8 else None
        packed = Packed(tensors[f"{name}.weight"], scale, bits, *shape)
        return Matrix(packed, tensors.get(f"{name}.bias"))

    shapes = s.shapes()
    layers = tuple(
        Layer(
            {name: matrix(f"layers.{i}.{name}", shapes[name], bits) for name in MATRICES},
            {n: tensors[f"layers.{i}.{n}"] for n in NORMS if f"layers.{i}.{n}" in tensors},
        )
        for i in range(len(s.layers))
    )
    embedding = matrix("embedding", (s.vocab, s.hidden), 8)
    head = embedding if s.is_tied else matrix("head", (s.vocab, s.hidden), 8)
    return Quantized(s, embedding, head, tensors["norm"], layers, header.weights_bytes)
