"""Quantised directories in tiles: written whole, read back by transformers' own network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.decoders import (
    LLAMA_LIKE,
    error,
    logits_of,
    make_decoder,
    make_quantized,
    random_ids,
)

from llmos.engines.loading import resident_bytes
from llmos.engines.native.mapped import open_mapped
from llmos.engines.native.quantize import (
    interleave,
    open_quantized,
    quantize_directory,
    separate,
)
from llmos.engines.native.restore import restore
from llmos.errors import InvalidModelError
from llmos.library.quantized import read_quantized


@pytest.mark.parametrize("kind", LLAMA_LIKE)
@pytest.mark.parametrize(("dtype", "most"), [("int8", 0.05), ("int4", 0.4)])
def test_the_restored_model_is_near_the_original(
    tmp_path: Path, kind: str, dtype: str, most: float
) -> None:
    path, quantized = make_quantized(tmp_path, kind, dtype)
    ids = random_ids(40)
    original = logits_of(open_mapped(tmp_path / "source"), ids)
    assert error(logits_of(restore(quantized, path), ids), original) < most


def test_a_directory_holds_config_and_tokenizer_and_no_other_weights(tmp_path: Path) -> None:
    source = make_decoder(tmp_path / "source")
    (source / "tokenizer.json").write_text("{}")
    (source / "model.safetensors.index.json").write_text("{}")
    seen: list[tuple[int, int]] = []
    quantize_directory(source, tmp_path / "q", "int8", lambda *done: seen.append(done))
    names = {path.name for path in (tmp_path / "q").iterdir()}
    assert {"config.json", "tokenizer.json", "quantized.safetensors"} <= names
    assert not any(name.startswith("model") for name in names)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_restored_model_takes_about_what_the_file_does(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": True}
    for dtype in ("int8", "int4"):
        path, quantized = make_quantized(tmp_path / dtype, "llama", dtype, **sizes)
        taken = resident_bytes(restore(quantized, path))
        header = read_quantized(path)
        assert taken < 1.05 * (header.weights_bytes if dtype == "int8" else header.parameters)


def test_what_is_said_of_the_weights_is_what_the_original_has(tmp_path: Path) -> None:
    for kind in ("llama with biases", "qwen2 tied", "qwen3", "gemma3"):
        path, quantized = make_quantized(tmp_path / kind, kind)
        header = read_quantized(path)
        original = open_mapped(tmp_path / kind / "source")
        assert header.parameters == original.num_parameters()
        assert header.weights_bytes == quantized.num_bytes
        assert header.kv_bytes_per_token == 2 * 2 * 3 * 2 * 32


def test_quantising_that_is_broken_off_leaves_no_weights(tmp_path: Path) -> None:
    source = make_decoder(tmp_path / "source")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_directory(source, tmp_path / "q", "int8", stop)
    assert not (tmp_path / "q" / "quantized.safetensors").exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path, _ = make_quantized(tmp_path)
    file = path / "quantized.safetensors"
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors"):
        open_quantized(path)


@pytest.mark.parametrize(
    "changes", [{"hidden_size": 64}, {"num_hidden_layers": 2}, {"vocab_size": 300}]
)
def test_a_config_of_another_network_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path, quantized = make_quantized(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InvalidModelError, match=r"config\.json names another network"):
        restore(quantized, path)


@pytest.mark.parametrize("rows", [1, 32, 50, 64, 176])
def test_gates_and_what_they_multiply_come_apart_again(rows: int) -> None:
    gate, up = torch.randn(rows, 3), torch.randn(rows, 3)
    fused = interleave(gate, up)
    assert torch.equal(fused[:1], gate[:1]) and torch.equal(fused[32:33], up[:1])
    assert all(map(torch.equal, separate(fused, rows), (gate, up)))
