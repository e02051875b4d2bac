"""Safetensors files written one tensor at a time and read as views of the mapped file.

Tensors begin at multiples of 64 bytes, as the extension wants them, unless told.
"""

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
_DTYPES = {
    "U8": torch.uint8,
    "I8": torch.int8,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


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

    def write(self, name: str, tensor: Tensor, alignment: int = ALIGNMENT) -> None:
        """Append a tensor of bytes or floating-point numbers."""
        # Tensors may not have gaps between them: it is their sizes that keep the alignment.
        assert self._offset % alignment == 0, f"{name} would not be in its place"
        data = tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        offsets = [self._offset, self._offset + len(data)]
        self._header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
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
    data = torch.from_numpy(body[info.begin : info.end])
    return data.view(_DTYPES[info.dtype]).view(info.shape)
