"""Reads and checks the header of a safetensors file, before any engine maps it.

The format: eight bytes of little-endian header length, a JSON object naming every tensor's dtype,
shape and byte range, then the tensors back to back. Nothing here reads tensor data.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmos.errors import InvalidModelError

MAX_HEADER_BYTES = 100_000_000
_MAX_RANK = 32
DTYPE_BITS = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E4M3": 8,
    "F8_E5M2": 8,
    "F8_E8M0": 8,
    "U16": 16,
    "I16": 16,
    "F16": 16,
    "BF16": 16,
    "U32": 32,
    "I32": 32,
    "F32": 32,
    "U64": 64,
    "I64": 64,
    "F64": 64,
    "C64": 64,
}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies: bytes ``[begin, end)`` after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Return every tensor of the file by name, the header fully checked.

    Raises:
        InvalidModelError: the file is cut short, has extra bytes, or its header is inconsistent.
    """
    entries, data_bytes = _read(path)
    entries.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, entry) for name, entry in entries.items()}
    _check_layout(path, tensors, data_bytes)
    return tensors


def read_metadata(path: Path) -> dict[str, str]:
    """Return the texts that the file's writer put beside the tensors; raises as `read_header`."""
    metadata = _read(path)[0].get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt(path, "its metadata are malformed")
    return metadata


def _read(path: Path) -> tuple[dict[str, Any], int]:
    """Return the header's entries and how many bytes follow it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise _corrupt(path, "its header length does not fit the file")
        return _parse(path, file.read(length)), size - 8 - length


def _parse(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(raw, object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise _corrupt(path, "its header is not valid JSON") from error
    if not isinstance(entries, dict):
        raise _corrupt(path, "its header is not a JSON object")
    return entries


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("duplicate name")
    return entries


def _tensor(path: Path, name: str, entry: Any) -> TensorInfo:
    """Return one header entry as a value whose dtype, shape and byte range agree."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(path, f"the entry of tensor {name[:80]!r} is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _corrupt(path, f"tensor {name[:80]!r} has the unknown type {str(dtype)[:20]!r}")
    if not _are_sizes(shape) or len(shape) > _MAX_RANK:
        raise _corrupt(path, f"tensor {name[:80]!r} has an impossible shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise _corrupt(path, f"tensor {name[:80]!r} has impossible offsets")
    info = TensorInfo(dtype, tuple(shape), offsets[0], offsets[1])
    if info.elements * DTYPE_BITS[dtype] != (info.end - info.begin) * 8:
        raise _corrupt(path, f"the shape and offsets of tensor {name[:80]!r} disagree")
    return info


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _check_layout(path: Path, tensors: dict[str, TensorInfo], data_bytes: int) -> None:
    """Check that the tensors lie back to back, from the header's end to the file's."""
    position = 0
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != position:
            fault = "overlaps another" if info.begin < position else "leaves a gap before it"
            raise _corrupt(path, f"tensor {name[:80]!r} {fault}")
        position = info.end
    if position != data_bytes:
        raise _corrupt(
            path, f"it holds {data_bytes} bytes of tensors where its header says {position}"
        )


def _corrupt(path: Path, reason: str) -> InvalidModelError:
    return InvalidModelError(
        f"{path.name} is not a valid safetensors file: {reason}; download or export it again",
        param="files",
    )
