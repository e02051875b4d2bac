"""Aligned safetensors files: any reader of the format reads them, and ours refuses broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from llmos.engines.native.tensorfile import ALIGNMENT, TensorWriter, read_tensors
from llmos.errors import InvalidModelError
from llmos.library.tensors import read_header, read_metadata

TENSORS = {
    "bytes": torch.arange(128, dtype=torch.uint8).view(2, 64),
    "numbers": torch.linspace(0, 1, 32),
}


NARROW = {
    "scales": torch.linspace(0, 1, 3),
    "half": torch.linspace(-1, 1, 5).bfloat16(),
    "other half": torch.linspace(-1, 1, 2).half(),
    "bytes": torch.arange(-3, 4, dtype=torch.int8).view(1, 7),
}


def written(path: Path) -> Path:
    with TensorWriter(path, {"format": "x"}, len(TENSORS)) as writer:
        for name, tensor in TENSORS.items():
            writer.write(name, tensor)
        writer.finish()
    return path


def test_other_readers_of_safetensors_read_what_was_written(tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors")
    loaded = load_file(path)
    assert loaded.keys() == TENSORS.keys()
    assert all(torch.equal(loaded[name], TENSORS[name]) for name in TENSORS)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "x"}
    assert read_metadata(path) == {"format": "x"}


def test_tensors_are_views_of_the_file_that_begin_at_multiples_of_the_alignment(
    tmp_path: Path,
) -> None:
    path = written(tmp_path / "a.safetensors")
    tensors = read_tensors(path)
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert all(tensor.data_ptr() % ALIGNMENT == 0 for tensor in tensors.values())
    tensors["bytes"][0, 0] = 77  # a private copy of the page
    assert read_tensors(path)["bytes"][0, 0] == 0


def test_tensors_of_any_size_lie_at_multiples_of_what_they_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with TensorWriter(path, {}, len(NARROW)) as writer:
        for name, tensor in NARROW.items():
            writer.write(name, tensor, alignment=tensor.itemsize)
        writer.finish()
    for loaded in (load_file(path), read_tensors(path)):
        assert all(torch.equal(loaded[name], NARROW[name]) for name in NARROW)
        assert all(loaded[name].dtype is NARROW[name].dtype for name in NARROW)
    assert all(t.data_ptr() % t.itemsize == 0 for t in read_tensors(path).values())


def test_a_tensor_out_of_its_place_is_a_mistake_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(AssertionError, match="numbers"), TensorWriter(path, {}, 2) as writer:
        writer.write("bytes", TENSORS["bytes"].view(-1)[:3])
        writer.write("numbers", TENSORS["numbers"])


def test_a_file_that_was_not_finished_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(RuntimeError), TensorWriter(path, {}, 2) as writer:
        writer.write("bytes", TENSORS["bytes"])
        raise RuntimeError
    assert not path.exists()


def test_a_tensor_of_another_type_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(64, dtype=torch.int64)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidModelError, match="I64"):
        read_tensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = written(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidModelError, match=r"a\.safetensors"):
        read_tensors(path)
    with pytest.raises(InvalidModelError):
        read_header(path)
