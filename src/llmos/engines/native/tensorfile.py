"""Safetensors files whose tensors begin at multiples of 64 bytes, written one tensor at a time and
read as views of the mapped file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmos.errors import InvalidModelError
from llmos.library.tensors import TensorInfo, read_header

ALIGNMENT = 64
_BYTES_PER_ENTRY = 256
_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype(np.uint8),
    "F32": np.dtype("<f4"),
}
_NAMES = {torch.uint8: "U8", torch.float32: "F32"}


class TensorWriter:
    """Writes tensors as they come; the header's room is set aside first.

    Use as a context manager: a file that was not finished is removed.
    """

    def __init__(self, path: Path, metadata: dict[str, str], max_tensors: int) -> None:
        self._path = path
        self._header: dict[str, Any] = {"__metadata__": metadata}
        room = len(json.dumps(self._header).encode()) + _BYTES_PER_ENTRY * max_tensors
        self._header_bytes = -(-(room + 8) // ALIGNMENT) * ALIGNMENT - 8
        self._offset = 0
        self._file = path.open("xb")
        self._file.seek(8 + self._header_bytes)
        self._is_finished = False

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        if not self._is_finished:
            self._path.unlink()

    def write(self, name: str, tensor: Tensor) -> None:
        """Append a uint8 or float32 tensor."""
        data = tensor.contiguous().numpy().tobytes()
        offsets = [self._offset, self._offset + len(data)]
        self._header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        # Tensors may not have gaps between them, so every size must keep the alignment.
        assert len(data) % ALIGNMENT == 0, f"{name} would put the next one off its place"
        self._file.write(data)
        self._offset = offsets[1]

    def finish(self) -> None:
        """Write the header; what follows it is then a complete file."""
        header = json.dumps(self._header).encode()
        assert len(header) <= self._header_bytes, "more tensors than planned"
        self._file.seek(0)
        self._file.write(self._header_bytes.to_bytes(8, "little"))
        self._file.write(header.ljust(self._header_bytes))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._is_finished = True


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a file; they share its mapped pages and must not be changed.

    Raises:
        InvalidModelError: it is no such file, or is cut short.
    """
    infos = read_header(path)
    # Mapped for writing, though privately, as torch knows no tensors that are read-only.
    mapped = np.memmap(path, mode="c", dtype=np.uint8)
    body = mapped[8 + int.from_bytes(mapped[:8].tobytes(), "little") :]
    return {name: _view(path, body, name, info) for name, info in infos.items()}


def _view(
    path: Path, body: np.ndarray[Any, np.dtype[np.uint8]], name: str, info: TensorInfo
) -> Tensor:
    if info.dtype not in _DTYPES:
        raise InvalidModelError(f"{path.name} has {name[:80]!r} as {info.dtype}, which is not used")
    view = body[info.begin : info.end].view(_DTYPES[info.dtype])
    return torch.from_numpy(view.reshape(info.shape))
