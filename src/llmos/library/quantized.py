"""Quantised decoders as files: what must stand in ``quantized.safetensors``, read without torch.

There are two formats. Tiles hold a Llama-like decoder as the C++ extension reads it; how the
numbers lie inside a tensor is the native engine's ``packing``. Rows hold any decoder, under the
names of transformers: int8 matrices with a float32 scale per row, all else as it was.

Engines map the tensors and compute with them unchecked, so every size is checked here, at import
and before a load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from llmos.errors import InvalidModelError
from llmos.library.files import QUANTIZED_FILE
from llmos.library.tensors import TensorInfo, read_header, read_metadata

TILES, ROWS = "llmos-tiles-1", "llmos-rows-1"
"""The formats."""
DTYPES = ("int8", "int4")
MATRICES = ("qkv", "output", "gate_up", "down")
HEAD_NORMS = ("query_norm", "key_norm")
NORMS = ("attention_norm", "mlp_norm", "post_attention_norm", "post_mlp_norm", *HEAD_NORMS)
KV_ITEM_BYTES = 2
"""Keys and values are kept as float16."""
TILE = 64
"""Output columns that lie together; every size is rounded up to a multiple."""
GROUP = 32
"""Inputs that share an int4 scale."""
GROUP_BYTES = GROUP * TILE // 2 + 2 * TILE
"""Of one tile's int4 group: its nibbles and float16 scales."""
_OPTIONAL_NORMS = frozenset(NORMS) - {"attention_norm", "mlp_norm"}
_NUM_ACTIVATIONS = 3
_MAX_SIZE = 2**24
_KEPT_TYPES = frozenset({"F32", "F16", "BF16"})
"""Of what stays as it was beside rows of int8."""


class Rotary(msgspec.Struct, frozen=True):
    """Angles per position, and the factor of cosine and sine."""

    inverse_frequencies: tuple[float, ...]
    factor: float


class LayerStructure(msgspec.Struct, frozen=True):
    """What differs between layers. ``window`` 0: all; ``rotary`` indexes `Structure.rotary`."""

    window: int
    rotary: int


class Structure(msgspec.Struct, frozen=True):
    """Everything of a decoder but the weights. Sizes in numbers; a soft cap of 0 is none."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    activation: int
    eps: float
    attention_scale: float
    attention_softcap: float
    logits_softcap: float
    embedding_scale: float
    is_tied: bool
    rotary: tuple[Rotary, ...]
    layers: tuple[LayerStructure, ...]

    @property
    def rotary_dim(self) -> int:
        return 2 * len(self.rotary[0].inverse_frequencies)

    @property
    def workspace_bytes_per_token(self) -> int:
        """What the extension takes beside weights and cache, for each token of a step."""
        queries = self.heads * self.head_dim
        fused = round_up(queries + 2 * self.kv_heads * self.head_dim)
        inner = round_up(queries) + round_up(self.intermediate)
        return 4 * (3 * self.hidden + fused + inner) + self.hidden + inner

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Return rows and columns of each of a layer's matrices, by `MATRICES`."""
        half = TILE // 2  # gates and what they multiply lie in turns of half a tile
        return {
            "qkv": ((self.heads + 2 * self.kv_heads) * self.head_dim, self.hidden),
            "output": (self.hidden, self.heads * self.head_dim),
            "gate_up": (2 * (-(-self.intermediate // half) * half), self.hidden),
            "down": (self.hidden, self.intermediate),
        }


@dataclass(frozen=True, slots=True)
class Header:
    """What a quantised model's file says of it, before its tensors are touched.

    ``parameters``: numbers that the model has, without scales and those that only fill up tiles.
    ``structure``: of a model in tiles; None for one in rows.
    """

    format: str
    dtype: str
    parameters: int
    kv_bytes_per_token: int
    tensors: dict[str, TensorInfo]
    structure: Structure | None = None

    @property
    def weights_bytes(self) -> int:
        return sum(info.end - info.begin for info in self.tensors.values())

    def manifest_keys(self) -> dict[str, Any]:
        """Return what a manifest says of the weights."""
        workspace = self.structure.workspace_bytes_per_token if self.structure else 0
        return {
            "dtype": self.dtype,
            "parameters": self.parameters,
            "weights_bytes": self.weights_bytes,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "quantization": {
                "format": self.format,
                "dtype": self.dtype,
                "workspace_bytes_per_token": workspace,
            },
        }


class Memory(NamedTuple):
    """Bytes that a quantised model takes, in whole and per token of its cache and of a step."""

    weights_bytes: int
    kv_bytes_per_token: int
    workspace_bytes_per_token: int


def memory(manifest: Mapping[str, Any], has_extension: bool) -> Memory:
    """Return what a quantised model of this manifest takes on a machine.

    By the extension: what is in the file, and a workspace. By torch: int4 weights as int8, keys
    and values as float32.
    """
    facts = manifest.get("quantization") or {}
    weights_bytes = int(manifest.get("weights_bytes") or 0)
    per_token = int(manifest.get("kv_bytes_per_token") or 0)
    if facts.get("format") == ROWS:
        return Memory(weights_bytes, per_token, 0)
    if has_extension:
        return Memory(weights_bytes, per_token, int(facts.get("workspace_bytes_per_token") or 0))
    if manifest.get("dtype") == "int4":
        weights_bytes = max(weights_bytes, int(manifest.get("parameters") or 0))
    return Memory(weights_bytes, per_token * 4 // KV_ITEM_BYTES, 0)


def round_up(number: int) -> int:
    """Return the next multiple of the tile."""
    return -(-number // TILE) * TILE


def packed_bytes(rows: int, columns: int, bits: int) -> int:
    """Return how many bytes the weights of a matrix take; int4 ones with their scales."""
    n, k = round_up(rows), round_up(columns)
    return n * k if bits == 8 else n // TILE * k // GROUP * GROUP_BYTES


def read_quantized(directory: Path) -> Header:
    """Return the header of a directory's quantised weights, every size in it checked.

    Raises:
        InvalidModelError: the file is missing, damaged, or of a format this version does not know.
    """
    path = directory / QUANTIZED_FILE
    if not path.is_file():
        raise InvalidModelError(f"there is no {QUANTIZED_FILE}: add it", param="files")
    tensors, metadata = read_header(path), read_metadata(path)
    dtype = str(metadata.get("dtype"))
    known = {TILES: DTYPES, ROWS: ("int8",)}.get(metadata.get("format", ""))
    if known is None:
        raise InvalidModelError(
            f"{QUANTIZED_FILE} has the format {str(metadata.get('format'))[:40]!r}, not "
            f"{TILES!r} or {ROWS!r}: quantise the model again with this version of llmos",
            param="files",
        )
    if dtype not in known:
        raise _damaged(f"the type {dtype[:20]!r} is none of {', '.join(known)}")
    if metadata["format"] == ROWS:
        return _rows_header(metadata, tensors)
    return _tiles_header(dtype, metadata, tensors)


def _tiles_header(
    dtype: str, metadata: Mapping[str, str], tensors: dict[str, TensorInfo]
) -> Header:
    try:
        found = msgspec.json.decode(metadata.get("structure", ""), type=Structure)
    except msgspec.DecodeError as error:
        raise _damaged(f"its structure cannot be read ({error})") from error
    _check_structure(found)
    _check_tensors(found, 8 if dtype == "int8" else 4, tensors)
    per_token = 2 * KV_ITEM_BYTES * len(found.layers) * found.kv_heads * found.head_dim
    return Header(TILES, dtype, _parameters(found, tensors), per_token, tensors, found)


def _parameters(s: Structure, tensors: Mapping[str, TensorInfo]) -> int:
    shapes = s.shapes() | {"gate_up": (2 * s.intermediate, s.hidden)}
    embeddings = s.vocab * s.hidden * (1 if s.is_tied else 2)
    return embeddings + sum(_numbers(name, s, shapes) for name in tensors)


def _numbers(name: str, s: Structure, shapes: Mapping[str, tuple[int, int]]) -> int:
    """Return how many numbers of the model a tensor stands for, the embeddings left out."""
    if name == "norm":
        return s.hidden
    _, is_of_layer, rest = name.partition("layers.")
    part, _, kind = rest.partition(".")[2].partition(".")
    if not is_of_layer or kind == "scale":
        return 0
    if not kind:
        return s.head_dim if part in HEAD_NORMS else s.hidden
    rows, columns = shapes[part]
    return rows if kind == "bias" else rows * columns


def _rows_header(metadata: Mapping[str, str], tensors: dict[str, TensorInfo]) -> Header:
    per_token = metadata.get("kv_bytes_per_token", "")
    if not per_token.isdecimal() or len(per_token) > 12:
        raise _damaged("it does not say what a token's keys and values take")
    scales = {f"{name.removesuffix('.weight')}.scale" for name in int8_matrices(tensors)}
    if not scales:
        raise _damaged("it holds no int8 matrix")
    for name, info in tensors.items():
        if info.dtype not in _KEPT_TYPES | {"I8"}:
            raise _damaged(f"the tensor {name[:80]!r} is of the type {info.dtype}")
    parameters = sum(info.elements for name, info in tensors.items() if name not in scales)
    return Header(ROWS, "int8", parameters, int(per_token), tensors)


def int8_matrices(tensors: Mapping[str, TensorInfo]) -> list[str]:
    """Return the names of the int8 matrices of a file of rows.

    Raises:
        InvalidModelError: one has no scales, or not as many as rows.
    """
    names = [name for name, info in tensors.items() if info.dtype == "I8"]
    for name in names:
        module, _, kind = name.rpartition(".")
        scale, shape = tensors.get(f"{module}.scale"), tensors[name].shape
        if kind != "weight" or len(shape) != 2 or 0 in shape:
            raise _damaged(f"the tensor {name[:80]!r} is no matrix")
        if scale is None or (scale.dtype, scale.shape) != ("F32", shape[:1]):
            raise _damaged(f"the scales of {name[:80]!r} are missing or not one per row")
    return names


def _check_structure(s: Structure) -> None:
    """Refuse numbers that no decoder has; the extension relies on them."""
    sizes = (s.hidden, s.heads, s.kv_heads, s.head_dim, s.intermediate, s.vocab, len(s.layers))
    if not all(0 < size <= _MAX_SIZE for size in sizes):
        raise _damaged("a size in its structure is impossible")
    if s.heads % s.kv_heads or s.head_dim % 16 or not 0 <= s.activation < _NUM_ACTIVATIONS:
        raise _damaged("its structure has heads or an activation that cannot be computed")
    dims = {2 * len(kind.inverse_frequencies) for kind in s.rotary}
    if len(dims) != 1 or not 0 < max(dims) <= s.head_dim:
        raise _damaged("its rotary embedding does not fit the heads")
    for layer in s.layers:
        if not 0 <= layer.rotary < len(s.rotary) or not 0 <= layer.window < 2**31:
            raise _damaged("a layer in its structure is impossible")
    numbers = (s.eps, s.attention_scale, s.attention_softcap, s.logits_softcap, s.embedding_scale)
    if not all(map(math.isfinite, numbers)):
        raise _damaged("a number in its structure is not finite")


def _check_tensors(structure: Structure, bits: int, tensors: Mapping[str, TensorInfo]) -> None:
    """Refuse tensors that are missing, unknown or not of the size the structure asks for."""
    known = {name: wanted for name, *wanted in _expected(structure, bits)}
    if unknown := sorted(set(tensors) - set(known)):
        raise _damaged(f"it holds the unknown tensor {unknown[0][:80]!r}")
    for name, (dtype, size, is_optional) in known.items():
        info = tensors.get(name)
        if info is None:
            if not is_optional:
                raise _damaged(f"the tensor {name!r} is missing")
        elif (info.dtype, info.elements) != (dtype, size):
            raise _damaged(f"the tensor {name!r} does not have the size of its structure")


def _expected(s: Structure, bits: int) -> Iterator[tuple[str, str, int, bool]]:
    """Yield the name, dtype and number of elements of each tensor, and whether it may be absent."""

    def matrix(
        name: str, rows: int, columns: int, bits: int
    ) -> Iterator[tuple[str, str, int, Any]]:
        yield f"{name}.weight", "U8", packed_bytes(rows, columns, bits), False
        if bits == 8:
            yield f"{name}.scale", "F32", round_up(rows), False

    for name in ("embedding",) if s.is_tied else ("embedding", "head"):
        yield from matrix(name, s.vocab, s.hidden, 8)
    yield "norm", "F32", round_up(s.hidden), False
    for index in range(len(s.layers)):
        for name, (rows, columns) in s.shapes().items():
            yield from matrix(f"layers.{index}.{name}", rows, columns, bits)
            yield f"layers.{index}.{name}.bias", "F32", round_up(rows), True
        for name in NORMS:
            size = round_up(s.head_dim if name in HEAD_NORMS else s.hidden)
            yield f"layers.{index}.{name}", "F32", size, name in _OPTIONAL_NORMS


def _damaged(reason: str) -> InvalidModelError:
    return InvalidModelError(
        f"{QUANTIZED_FILE} is damaged: {reason}; quantise, export or download it again",
        param="files",
    )
