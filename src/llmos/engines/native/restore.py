"""A model whose file holds tiles as a transformers network, where the extension does not run it.

Its matrices are taken apart into plain rows of int8; the network and its arithmetic are those of
``int8_model``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llmos.engines.loading import Model
from llmos.engines.native import structure
from llmos.engines.native.int8_model import build, fill
from llmos.engines.native.packing import unpack, unpack_rows
from llmos.engines.native.probe import UNSUITED
from llmos.engines.native.quantize import Matrix, Quantized, matrix_parts, separate
from llmos.engines.native.structure import Part
from llmos.errors import InvalidModelError
from llmos.library.quantized import HEAD_NORMS, Structure


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Part of a model, enough to check some layers: which, and the tokens that become its whole
    vocabulary, in their order."""

    layers: Sequence[int]
    token_ids: Sequence[int]


def restore(quantized: Quantized, path: Path, excerpt: Excerpt | None = None) -> Model:
    """Return the transformers network of a directory with the quantised weights as int8.

    With an ``excerpt``, the layers of ``quantized`` are those it names.

    Raises:
        InvalidModelError: config.json is that of another network.
    """

    def change(config: Any) -> None:
        if excerpt is not None:
            _shrink(config, excerpt)

    model = build(path, change)
    try:
        tensors = _tensors(quantized, model, excerpt)
    except UNSUITED as error:
        raise InvalidModelError(
            f"config.json names another network than the weights are of: {error}"
        ) from error
    fill(model, tensors)
    return model


def _shrink(config: Any, excerpt: Excerpt) -> None:
    config.num_hidden_layers = len(excerpt.layers)
    config.vocab_size = len(excerpt.token_ids)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in excerpt.layers]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(config, name, None)


@torch.no_grad()
def _tensors(quantized: Quantized, model: Model, excerpt: Excerpt | None) -> dict[str, Tensor]:
    """Return the tensors of the network by their names."""
    found = quantized.structure
    names = {module: name for name, module in model.named_modules()}
    tensors = _embeddings(quantized, model, excerpt, names)
    norms = [(model.model.norm, quantized.norm, found.hidden)]
    for layer, module in zip(quantized.layers, model.model.layers, strict=True):
        modules = structure.layer_modules(module)
        if modules is None:
            raise ValueError("its layers are not Llama-like")
        for name, parts in matrix_parts(modules).items():
            for part, values in _split(name, layer.matrices[name], parts, found):
                key = f"{names[module]}.{part}"
                others = tensors.get(key)
                tensors[key] = values if others is None else torch.cat([others, values])
        for name, norm in modules.norms.items():
            size = found.head_dim if name in HEAD_NORMS else found.hidden
            norms.append((norm, layer.norms[name], size))
    for norm, factors, size in norms:
        tensors[f"{names[norm]}.weight"] = _norm_weight(norm, factors, size)
    return tensors


def _embeddings(
    quantized: Quantized, model: Model, excerpt: Excerpt | None, names: Mapping[nn.Module, str]
) -> dict[str, Tensor]:
    pairs = [(model.get_input_embeddings(), quantized.embedding)]
    if not quantized.structure.is_tied:
        pairs.append((model.get_output_embeddings(), quantized.head))
    tensors: dict[str, Tensor] = {}
    for module, matrix in pairs:
        packed, path = matrix.packed, names[module]
        values = unpack_rows(packed, excerpt.token_ids) if excerpt else unpack(packed)
        tensors |= {f"{path}.weight": values.numbers, f"{path}.scale": values.scale}
    return tensors


def _split(
    name: str, matrix: Matrix, parts: Sequence[Part], found: Structure
) -> Iterator[tuple[str, Tensor]]:
    """Yield what of a fused matrix belongs to each part, by the name of the tensor."""
    values = unpack(matrix.packed)
    fused = {"weight": values.numbers, "scale": values.scale}
    if matrix.bias is not None:
        fused["bias"] = matrix.bias[: matrix.packed.rows].clone()
    for kind, tensor in fused.items():
        sizes = [part.last - part.first for part in parts]
        whole = name == "gate_up"
        pieces = separate(tensor, found.intermediate) if whole else torch.split(tensor, sizes)
        for part, piece in zip(parts, pieces, strict=True):
            if kind != "bias" or part.bias() is not None:
                yield f"{part.path}.{kind}", piece


def _norm_weight(norm: nn.Module, factors: Tensor, size: int) -> Tensor:
    """Return the weight by which a norm applies ``factors``, whatever it adds to it."""
    weight = norm.get_parameter("weight")
    weight.fill_(0)
    return factors[:size] - structure.norm_weight(norm, size)
