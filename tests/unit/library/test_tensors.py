"""The safetensors header parser: reads what the reference writes, refuses everything malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from llmos.errors import InvalidModelError
from llmos.library.tensors import TensorInfo, read_header


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path


def entry(
    begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "U8"
) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": [end - begin] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def test_it_reads_what_safetensors_writes(tmp_path: Path) -> None:
    arrays = {
        "a": np.zeros((3, 4), np.float32),
        "b": np.ones(5, np.int64),
        "empty": np.zeros((0, 2)),
    }
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tensors = read_header(tmp_path / "model.safetensors")
    assert {name: info.shape for name, info in tensors.items()} == {
        name: array.shape for name, array in arrays.items()
    }
    assert tensors["a"].dtype == "F32"
    assert tensors["a"].elements == 12
    assert tensors["b"].end - tensors["b"].begin == 40


BAD: dict[str, tuple[Any, bytes]] = {
    "not json": (b"{not json}", b""),
    "not utf-8": (b'{"\xff": 1}', b""),
    "a list": ([], b""),
    "nested too deep": (b"[" * 100_000, b""),
    "duplicate names": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":1}', b""),
    "huge integer": (
        b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}',
        b"x",
    ),
    "entry is a number": ({"a": 1}, b""),
    "missing key": ({"a": {"dtype": "U8", "shape": [1]}}, b"x"),
    "extra key": ({"a": entry(0, 1) | {"run": "os.system"}}, b"x"),
    "unknown dtype": ({"a": entry(0, 1, dtype="OBJ")}, b"x"),
    "dtype is a list": ({"a": entry(0, 1, dtype=["U8"])}, b"x"),
    "negative shape": ({"a": entry(0, 1, [-1])}, b"x"),
    "shape of floats": ({"a": entry(0, 1, [1.0])}, b"x"),
    "shape of booleans": ({"a": entry(0, 1, [True])}, b"x"),
    "shape too long": ({"a": entry(0, 1, [1] * 33)}, b"x"),
    "shape overflows": ({"a": entry(0, 1, [2**62, 2**62])}, b"x"),
    "reversed offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, b"x"),
    "three offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"x"),
    "shape disagrees": ({"a": entry(0, 2, [3])}, b"xx"),
    "overlap": ({"a": entry(0, 2), "b": entry(1, 3)}, b"xxx"),
    "same range twice": ({"a": entry(0, 2), "b": entry(0, 2)}, b"xx"),
    "gap": ({"a": entry(0, 1), "b": entry(2, 3)}, b"xxx"),
    "starts late": ({"a": entry(1, 2)}, b"xx"),
    "cut short": ({"a": entry(0, 4)}, b"xx"),
    "extra bytes": ({"a": entry(0, 1)}, b"xx"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header_is_refused_in_one_sentence(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", *BAD[name])
    with pytest.raises(
        InvalidModelError, match=r"^model\.safetensors is not a valid safetensors file"
    ):
        read_header(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"\xff" * 8,
        (2**40).to_bytes(8, "little") + b"{}",
        b"\x80\x04\x95" + b"\0" * 30,  # a pickle
        b"PK\x03\x04" + b"\0" * 30,  # a zip
        b"GGUF" + b"\0" * 30,
    ],
)
def test_another_format_under_the_name_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError):
        read_header(path)


@settings(max_examples=200)
@given(st.data())
def test_a_mutated_file_is_refused_or_means_what_safetensors_reads(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("mutated") / "model.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.uint8)}, path)
    raw = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(raw) - 1))
    raw[position] = data.draw(st.integers(0, 255))
    path.write_bytes(raw)
    try:
        tensors = read_header(path)
    except InvalidModelError:
        return
    loaded = load_file(path)
    assert {name: array.shape for name, array in loaded.items()} == {
        name: info.shape for name, info in tensors.items()
    }


def test_elements_of_a_scalar_is_one() -> None:
    assert TensorInfo("F32", (), 0, 4).elements == 1
