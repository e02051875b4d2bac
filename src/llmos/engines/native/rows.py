"""Quantised decoders of any kind as files: rows of int8 under the names of transformers.

Every linear layer and the token embedding is int8 with a float32 scale per row; norms, biases and
what else there is stay as they were. Torch computes with the file's own pages.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from llmos.engines.loading import Model
from llmos.engines.native.int8 import round_rows, row_scales
from llmos.engines.native.int8_model import build, embedding_factor, fill, is_linear, weight_of
from llmos.engines.native.tensorfile import TensorWriter, read_tensors
from llmos.errors import UnsupportedTaskError
from llmos.library.files import CONFIG_FILE, QUANTIZED_FILE, read_json
from llmos.library.manifest import kv_bytes_per_token
from llmos.library.quantized import ROWS, read_quantized

_KEPT_TYPES = frozenset({torch.float32, torch.float16, torch.bfloat16})
_MIN_SHARE = 0.5
"""Of a model's numbers, those that become int8: for fewer it is not worth it."""


def int8_modules(model: Model) -> dict[str, nn.Module]:
    """Return the modules whose weights become int8, by the names of their weights.

    Raises:
        UnsupportedTaskError: they hold too little of the model.
    """
    embedding = model.get_input_embeddings()
    users: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for _, parameter in module.named_parameters(recurse=False):
            users.setdefault(id(parameter), []).append((path, module))
    found: dict[str, nn.Module] = {}
    with torch.inference_mode():
        for name, parameter in model.named_parameters():
            path, is_weight, kind = name.rpartition(".")
            if kind != "weight" or not is_weight or parameter.dim() != 2:
                continue
            if all(_can_be_int8(module, embedding) for _, module in users[id(parameter)]):
                found[name] = model.get_submodule(path)
    numbers = sum(module.get_parameter("weight").numel() for module in found.values())
    if numbers < _MIN_SHARE * model.num_parameters():
        raise UnsupportedTaskError(
            f"A {type(model).__name__} cannot be quantised: too few of its weights are in linear "
            "layers."
        )
    if not all(tensor.dtype in _KEPT_TYPES for tensor in _kept(model).values()):
        raise UnsupportedTaskError(
            f"A {type(model).__name__} cannot be quantised: it keeps numbers of an unusual type."
        )
    return found


def write(
    model: Model,
    matrices: Mapping[str, nn.Module],
    target: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Write the file of rows into the directory ``target``, which has the model's config."""
    per_token = kv_bytes_per_token(read_json(target / CONFIG_FILE), "float32")
    metadata = {"format": ROWS, "dtype": "int8", "kv_bytes_per_token": str(per_token)}
    count = len(model.state_dict()) + len(matrices)
    with TensorWriter(target / QUANTIZED_FILE, metadata, count) as writer:
        for name, tensor in _tensors(model, matrices, progress):
            writer.write(name, tensor, alignment=tensor.itemsize)
        writer.finish()


def load(path: Path) -> Model:
    """Return the network of a directory whose file holds rows; its int8 weights stay mapped.

    Raises:
        InvalidModelError: the file is damaged, or of another network than config.json.
    """
    read_quantized(path)
    model = build(path)
    fill(model, read_tensors(path / QUANTIZED_FILE))
    return model


def _can_be_int8(module: nn.Module, embedding: nn.Module) -> bool:
    if module is embedding:
        return embedding_factor(module) is not None
    return is_linear(module)


@torch.inference_mode()
def _tensors(
    model: Model, matrices: Mapping[str, nn.Module], progress: Callable[[int, int], None]
) -> Iterator[tuple[str, Tensor]]:
    """Yield what the file holds, wide numbers first: each then lies at a multiple of its size."""
    scales = {}
    total = 2 * len(matrices)
    for done, (name, module) in enumerate(matrices.items(), start=1):
        scales[name] = row_scales(weight_of(module))
        yield f"{name.removesuffix('weight')}scale", scales[name]
        progress(done, total)
    kept = {name: tensor for name, tensor in _kept(model).items() if name not in matrices}
    for name in sorted(kept, key=lambda name: -kept[name].itemsize):
        yield name, kept[name]
    for done, (name, module) in enumerate(matrices.items(), start=len(matrices) + 1):
        yield name, round_rows(weight_of(module), scales[name])
        progress(done, total)


def _kept(model: Model) -> dict[str, Tensor]:
    """Return every tensor of a model's state once."""
    parameters = dict(model.named_parameters())
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - parameters.keys()
    return {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
