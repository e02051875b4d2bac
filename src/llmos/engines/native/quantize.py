"""Quantised decoders as files: written once, then mapped into memory as they are.

A directory holds config and tokenizer as before and ``quantized.safetensors`` in place of the
weights: matrices packed as `packing` says, norms and biases as float32 rounded up to tiles, and in
the metadata the `Structure`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from llmos.engines.loading import Model
from llmos.engines.native import structure
from llmos.engines.native.mapped import open_mapped
from llmos.engines.native.packing import Bits, Packed, pack, unpack, unpack_rows
from llmos.engines.native.probe import UNSUITED
from llmos.engines.native.structure import LayerModules, Part
from llmos.engines.native.tensorfile import TensorWriter, read_tensors
from llmos.errors import InvalidModelError, UnsupportedTaskError
from llmos.library.files import QUANTIZED_FILE
from llmos.library.quantized import (
    FORMAT,
    HEAD_NORMS,
    MATRICES,
    NORMS,
    TILE,
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
) -> Structure:
    """Write the model of ``source`` to the new directory ``target`` with quantised weights.

    Embedding and head are int8 in either case. ``progress`` is told of layers done, of how many.

    Raises:
        InvalidModelError: ``source`` holds no causal language model.
        UnsupportedTaskError: its layers are not Llama-like.
    """
    model = open_mapped(source)
    found = structure.recognize(model)
    if found is None:
        raise UnsupportedTaskError(
            f"A {type(model).__name__} cannot be quantised: its layers are not built like Llama's."
        )
    target.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copy2(path, target / path.name)
    metadata = {
        "format": FORMAT,
        "dtype": dtype,
        "structure": msgspec.json.encode(found).decode(),
    }
    count = _TENSORS_PER_LAYER * len(found.layers) + 5
    with TensorWriter(target / QUANTIZED_FILE, metadata, count) as writer:
        for name, tensor in _tensors(found, model, 8 if dtype == "int8" else 4, progress):
            writer.write(name, tensor)
        writer.finish()
    return found


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
        for name, parts in _matrix_parts(modules).items():
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


def _matrix_parts(modules: LayerModules) -> dict[str, tuple[Part, ...]]:
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
    """Map the quantised model of a directory.

    Raises:
        InvalidModelError: the file is missing, damaged, or of a format this version does not know.
    """
    header = read_quantized(path)
    s = header.structure
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


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a model, enough to check some layers: which, and the tokens that become its whole
    vocabulary, in their order."""

    layers: Sequence[int]
    token_ids: Sequence[int]


def restore(quantized: Quantized, path: Path, excerpt: Excerpt | None = None) -> Model:
    """Return the transformers model of a directory with the quantised weights as float32.

    With an ``excerpt``, the layers of ``quantized`` are those it names.

    Raises:
        InvalidModelError: config.json is that of another network.
    """
    config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    if excerpt is not None:
        _shrink(config.get_text_config(), excerpt)
    with no_init_weights():
        # Another dtype would be every thread's default while the network is built.
        model = AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    model = model.eval().requires_grad_(False)
    try:
        _fill_model(quantized, model, excerpt)
    except UNSUITED as error:
        raise InvalidModelError(
            f"config.json names another network than the weights are of: {error}"
        ) from error
    return model


def _fill_model(quantized: Quantized, model: Model, excerpt: Excerpt | None) -> None:
    for layer, module in zip(quantized.layers, model.model.layers, strict=True):
        _restore_layer(quantized.structure, layer, module)
    _restore_norm(model.model.norm, quantized.norm, quantized.structure.hidden)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for module, matrix in ((embedding, quantized.embedding), (head, quantized.head)):
        packed = matrix.packed
        rows = unpack_rows(packed, excerpt.token_ids) if excerpt else unpack(packed)
        module.weight.copy_(rows)


def _shrink(config: Any, excerpt: Excerpt) -> None:
    config.num_hidden_layers = len(excerpt.layers)
    config.vocab_size = len(excerpt.token_ids)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in excerpt.layers]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, None)


def _restore_layer(found: Structure, layer: Layer, module: nn.Module) -> None:
    modules = structure.layer_modules(module)
    if modules is None:
        raise ValueError("its layers are not Llama-like")
    for name, parts in _matrix_parts(modules).items():
        matrix = layer.matrices[name]
        _fill(name, [part.weight() for part in parts], unpack(matrix.packed), found)
        biases = [bias for part in parts if (bias := part.bias()) is not None]
        if matrix.bias is not None and len(biases) == len(parts):
            _fill(name, biases, matrix.bias[: matrix.packed.rows], found)
    for name, norm in modules.norms.items():
        size = found.head_dim if name in HEAD_NORMS else found.hidden
        _restore_norm(norm, layer.norms[name], size)


def _fill(name: str, parts: list[Tensor], fused: Tensor, found: Structure) -> None:
    if name == "gate_up":
        whole: Sequence[Tensor] = separate(fused, found.intermediate)
    else:
        whole = torch.split(fused, [part.shape[0] for part in parts])
    for part, values in zip(parts, whole, strict=True):
        part.copy_(values)


def _restore_norm(norm: nn.Module, factors: Tensor, size: int) -> None:
    """Set a norm's weight so that it applies ``factors``, whatever it adds to it."""
    weight = norm.get_parameter("weight")
    weight.fill_(0)
    offset = structure.norm_weight(norm, size)
    weight.copy_(factors[:size] - offset)
