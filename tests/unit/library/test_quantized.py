"""The header of quantised weights: every size is checked before an engine maps the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from llmos.errors import InvalidModelError
from llmos.library import importers
from llmos.library.checks import check_config, check_weights
from llmos.library.files import select
from llmos.library.jobs import check_import
from llmos.library.manifest import build_manifest
from llmos.library.quantized import memory, packed_bytes, read_quantized, round_up

SIZES = {"hidden": 80, "heads": 4, "kv_heads": 2, "head_dim": 16, "intermediate": 100, "vocab": 8}
STRUCTURE: dict[str, Any] = {
    **SIZES,
    "activation": 0,
    "eps": 1e-6,
    "attention_scale": 0.25,
    "attention_softcap": 0.0,
    "logits_softcap": 0.0,
    "embedding_scale": 1.0,
    "is_tied": False,
    "rotary": [{"inverse_frequencies": [1.0] * 8, "factor": 1.0}],
    "layers": [{"window": 0, "rotary": 0}, {"window": 7, "rotary": 0}],
}
MATRICES = {"qkv": (128, 80), "output": (80, 64), "gate_up": (256, 80), "down": (80, 100)}
WORKSPACE = 4 * (3 * 80 + 128 + 64 + 128) + 80 + 64 + 128
PARAMETERS = 2 * 8 * 80 + 80 + 2 * (128 * 80 + 80 * 64 + 2 * 100 * 80 + 80 * 100 + 2 * 80)


def tensors(dtype: str) -> dict[str, np.ndarray[Any, Any]]:
    """All that the structure asks for, without what may be absent."""
    bits = 8 if dtype == "int8" else 4
    made: dict[str, Any] = {"norm": np.ones(round_up(80), np.float32)}

    def add(name: str, rows: int, columns: int, bits: int) -> None:
        made[f"{name}.weight"] = np.zeros(packed_bytes(rows, columns, bits), np.uint8)
        if bits == 8:
            made[f"{name}.scale"] = np.ones(round_up(rows), np.float32)

    for name in ("embedding", "head"):
        add(name, 8, 80, 8)
    for layer in range(2):
        for name, shape in MATRICES.items():
            add(f"layers.{layer}.{name}", *shape, bits)
        for name in ("attention_norm", "mlp_norm"):
            made[f"layers.{layer}.{name}"] = np.ones(round_up(80), np.float32)
    return made


def write(
    directory: Path,
    dtype: str = "int8",
    *,
    structure: dict[str, Any] | None = None,
    changed: dict[str, np.ndarray[Any, Any] | None] | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write the weights; ``changed`` tensors replace others, None ones are left out."""
    kept = {name: t for name, t in (tensors(dtype) | (changed or {})).items() if t is not None}
    said = {"format": "llmos-tiles-1", "dtype": dtype}
    said["structure"] = json.dumps(STRUCTURE | (structure or {}))
    save_file(kept, directory / "quantized.safetensors", said | (metadata or {}))
    return directory


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_a_good_header_says_what_the_model_is(tmp_path: Path, dtype: str) -> None:
    header = read_quantized(write(tmp_path, dtype))
    assert (header.dtype, header.structure.vocab) == (dtype, 8)
    assert header.parameters == PARAMETERS
    assert header.kv_bytes_per_token == 2 * 2 * 2 * 2 * 16
    assert header.weights_bytes == sum(t.nbytes for t in tensors(dtype).values())


def test_biases_and_more_norms_may_be_there(tmp_path: Path) -> None:
    more = {
        "layers.0.qkv.bias": np.zeros(128, np.float32),
        "layers.1.query_norm": np.zeros(64, np.float32),
        "layers.1.post_mlp_norm": np.zeros(128, np.float32),
    }
    header = read_quantized(write(tmp_path, changed=dict(more)))
    assert header.parameters == PARAMETERS + 128 + 16 + 80


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab": 10**9},
        {"vocab": 2**40},
        {"heads": 3},
        {"kv_heads": 0},
        {"head_dim": 8, "heads": 8, "kv_heads": 4},
        {"hidden": 144},
        {"intermediate": 300},
        {"activation": 3},
        {"activation": "relu"},
        {"eps": 1e400},
        {"rotary": []},
        {"rotary": [{"inverse_frequencies": [1.0] * 9, "factor": 1.0}]},
        {"layers": []},
        {"layers": [{"window": 0, "rotary": 1}, {"window": 0, "rotary": 0}]},
        {"layers": [{"window": -1, "rotary": 0}, {"window": 0, "rotary": 0}]},
        {"layers": [{"window": 0, "rotary": 0}]},
        {"is_tied": True},
    ],
    ids=str,
)
def test_a_structure_that_is_not_that_of_the_tensors_is_refused(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors is damaged"):
        read_quantized(write(tmp_path, structure=changes))


@pytest.mark.parametrize(
    "changed",
    [
        {"norm": None},
        {"norm": np.ones(64, np.float32)},
        {"norm": np.ones(128, np.uint8)},
        {"layers.0.qkv.weight": np.zeros(64, np.uint8)},
        {"layers.0.qkv.scale": None},
        {"layers.1.mlp_norm": None},
        {"layers.0.qkv.bias": np.zeros(64, np.float32)},
        {"layers.2.mlp_norm": np.ones(128, np.float32)},
        {"embedding.bias": np.ones(64, np.float32)},
    ],
    ids=str,
)
def test_tensors_that_are_not_those_of_the_structure_are_refused(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors is damaged"):
        read_quantized(write(tmp_path, changed=changed))


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"format": "llmos-tiles-2"}, "quantise the model again with this version"),
        ({"dtype": "int2"}, "none of int8, int4"),
        ({"structure": "{"}, "structure cannot be read"),
        ({"structure": "{}"}, "structure cannot be read"),
    ],
)
def test_metadata_that_nobody_knows_are_refused(
    tmp_path: Path, metadata: dict[str, str], said: str
) -> None:
    with pytest.raises(InvalidModelError, match=said):
        read_quantized(write(tmp_path, metadata=metadata))


@pytest.mark.parametrize("keep", [0, 4, 500, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path) / "quantized.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors"):
        read_quantized(tmp_path)


# -- as files of a model -----------------------------------------------------------------------


@pytest.fixture
def quantized_dir(model_dir: Path) -> Path:
    """A directory as `llmos export` writes it of a quantised model."""
    (model_dir / "model.safetensors").unlink()
    edit(model_dir / "config.json", hidden_size=80, num_hidden_layers=2)
    return write(model_dir)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_manifest_is_read_off_the_header(quantized_dir: Path) -> None:
    manifest = build_manifest(quantized_dir)
    assert (manifest.dtype, manifest.parameters, manifest.engine) == ("int8", PARAMETERS, "native")
    told = {"format": "llmos-tiles-1", "dtype": "int8"}
    assert manifest.quantization == told | {"workspace_bytes_per_token": WORKSPACE}
    assert manifest.kv_bytes_per_token == 256


def test_an_exported_model_can_be_imported_again(
    quantized_dir: Path, context: Any, store: Callable[[Path], dict[str, str]]
) -> None:
    context.params = check_import({"name": "mine", "files": store(quantized_dir)})
    (new,) = importers.run(context).artifacts
    assert "quantized.safetensors" in new.files
    assert new.manifest["dtype"] == "int8" and new.inputs == ()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_size": 64}, "hidden_size 64"),
        ({"num_hidden_layers": 3}, "num_hidden_layers 3"),
        ({"vocab_size": 9}, "vocab_size 9"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "can only generate text"),
    ],
)
def test_a_config_of_another_model_is_refused(
    quantized_dir: Path, values: dict[str, Any], said: str
) -> None:
    edit(quantized_dir / "config.json", **values)
    with pytest.raises(InvalidModelError, match=said):
        check_weights(quantized_dir, check_config(quantized_dir))


def test_a_quantised_model_cannot_be_imported_to_embed(quantized_dir: Path) -> None:
    with pytest.raises(InvalidModelError, match="can only generate text"):
        check_config(quantized_dir, "embed")


def test_original_weights_win_over_quantised_ones_beside_them() -> None:
    chosen = select(["config.json", "model.safetensors", "quantized.safetensors"])
    assert chosen.skipped == ("quantized.safetensors",)
    assert "quantized.safetensors" in select(["config.json", "quantized.safetensors"]).kept


def write_rows(directory: Path, changed: dict[str, Any], **metadata: str) -> Path:
    """Write a file of rows; ``changed`` tensors replace others, None ones are left out."""
    made: dict[str, Any] = {
        "wte.weight": np.zeros((8, 20), np.int8),
        "wte.scale": np.ones(8, np.float32),
        "ln.weight": np.ones(20, np.float16),
    }
    kept = {name: t for name, t in (made | changed).items() if t is not None}
    said = {"format": "llmos-rows-1", "dtype": "int8", "kv_bytes_per_token": "64"}
    save_file(kept, directory / "quantized.safetensors", said | metadata)
    return directory


def test_rows_of_int8_say_what_the_model_is(tmp_path: Path) -> None:
    header = read_quantized(write_rows(tmp_path, {}))
    assert (header.dtype, header.structure) == ("int8", None)
    assert (header.parameters, header.weights_bytes) == (180, 160 + 32 + 40)
    assert header.manifest_keys()["kv_bytes_per_token"] == 64
    told = header.manifest_keys()["quantization"]
    assert told == {"format": "llmos-rows-1", "dtype": "int8", "workspace_bytes_per_token": 0}


@pytest.mark.parametrize(
    ("changed", "metadata"),
    [
        ({"wte.scale": None}, {}),
        ({"wte.scale": np.ones(9, np.float32)}, {}),
        ({"wte.scale": np.ones(8, np.float16)}, {}),
        ({"wte.bias": np.ones((8, 2), np.int8), "wte.scale": np.ones(8, np.float32)}, {}),
        ({"wte.weight": np.ones((8, 2, 2), np.int8)}, {}),
        ({"wte.weight": np.ones((0, 2), np.int8), "wte.scale": np.ones(0, np.float32)}, {}),
        ({"wte.weight": np.ones((8, 20), np.float32)}, {}),
        ({"ln.weight": np.ones(20, np.int64)}, {}),
        ({}, {"dtype": "int4"}),
        ({}, {"kv_bytes_per_token": "-1"}),
        ({}, {"kv_bytes_per_token": "1e9"}),
        ({}, {"kv_bytes_per_token": "9" * 99}),
    ],
    ids=str,
)
def test_rows_that_cannot_be_computed_with_are_refused(
    tmp_path: Path, changed: dict[str, Any], metadata: dict[str, str]
) -> None:
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors is damaged"):
        read_quantized(write_rows(tmp_path, changed, **metadata))


def test_a_vocabulary_of_another_size_than_the_rows_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, {})
    assert check_weights(tmp_path, {"vocab_size": 8}) == 8
    with pytest.raises(InvalidModelError, match="not of one model"):
        check_weights(tmp_path, {"vocab_size": 9})


@pytest.mark.parametrize(
    ("dtype", "format", "has_extension", "expected"),
    [
        ("int8", "llmos-tiles-1", True, (1000, 64, 7)),
        ("int8", "llmos-tiles-1", False, (1000, 128, 0)),
        ("int4", "llmos-tiles-1", True, (1000, 64, 7)),
        ("int4", "llmos-tiles-1", False, (1900, 128, 0)),
        ("int8", "llmos-rows-1", True, (1000, 64, 0)),
        ("int8", "llmos-rows-1", False, (1000, 64, 0)),
    ],
)
def test_what_a_model_takes_depends_on_who_computes_it(
    dtype: str, format: str, has_extension: bool, expected: tuple[int, int, int]
) -> None:
    manifest = {"dtype": dtype, "weights_bytes": 1000, "parameters": 1900}
    manifest |= {"kv_bytes_per_token": 64}
    manifest |= {"quantization": {"format": format, "workspace_bytes_per_token": 7}}
    assert memory(manifest, has_extension) == expected


def test_a_manifest_of_before_says_less() -> None:
    assert memory({"dtype": "int8", "weights_bytes": 10}, True) == (10, 0, 0)
