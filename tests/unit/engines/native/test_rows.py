"""Decoders of every kind as rows of int8: near the original, exact in any batch, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.unit.engines import decoders
from tests.unit.engines.decoders import (
    OTHERS,
    VOCAB,
    chunk,
    error,
    logits_of,
    make_decoder,
    make_quantized,
    random_ids,
)
from tests.unit.engines.families import run_works
from tests.unit.engines.lora import load_adapted, save_adapter
from transformers import AutoModelForCausalLM

from llmos.engines.loading import load_pretrained, resident_bytes
from llmos.engines.native import rows
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.mapped import open_mapped
from llmos.engines.native.probe import make_runner
from llmos.engines.native.quantize import quantize_directory
from llmos.engines.native.restore import restore
from llmos.engines.native.runner import PagedRunner
from llmos.engines.native.tensorfile import read_tensors
from llmos.errors import InvalidModelError, UnsupportedTaskError
from llmos.library.quantized import ROWS, read_quantized
from llmos.types import GenerateWork, SamplingParams

IDS = random_ids(40)
PAGED = ["gpt2", "olmo2", "phi", "stablelm", "gpt_neox", "opt"]
MANIFEST: dict[str, Any] = {"engine": "native", "context_tokens": 128, "dtype": "int8"}


def in_rows(folder: Path, kind: str = "gpt2", **changes: Any) -> Path:
    """Return the directory of a random model that is quantised in rows."""
    source = make_decoder(folder / "source", kind, **changes)
    quantize_directory(source, folder / "int8", "int8", must_be_rows=True)
    return folder / "int8"


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Write the file's tensors anew after a change, as well formed as before."""
    file = path / "quantized.safetensors"
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file, metadata)


@pytest.mark.parametrize("kind", OTHERS)
def test_every_decoder_is_near_its_original(tmp_path: Path, kind: str) -> None:
    source = make_decoder(tmp_path / "source", kind, torch.bfloat16)
    quantize_directory(source, tmp_path / "q", "int8")
    header = read_quantized(tmp_path / "q")
    original = open_mapped(source)
    assert (header.format, header.dtype) == (ROWS, "int8")
    assert header.parameters == original.num_parameters()
    model = rows.load(tmp_path / "q")
    assert error(logits_of(model, IDS), logits_of(original, IDS)) < 0.06


@pytest.mark.parametrize("kind", ["gpt2", "opt", "falcon"])
def test_a_loaded_model_takes_what_its_file_does_in_the_pages_of_the_file(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_rows(tmp_path, kind)
    opened = read_tensors(path / "quantized.safetensors")
    monkeypatch.setattr(rows, "read_tensors", lambda file: opened)
    model = rows.load(path)
    assert resident_bytes(model) < 1.05 * read_quantized(path).weights_bytes
    mapped = {t.data_ptr() for t in opened.values() if t.dtype is torch.int8}
    assert mapped == {p.data_ptr() for p in model.parameters() if p.dtype is torch.int8}
    assert model.dtype is torch.float32


def test_a_matrix_used_twice_is_stored_once(tmp_path: Path) -> None:
    path = in_rows(tmp_path)
    names = load_file(path / "quantized.safetensors").keys()
    assert "transformer.wte.weight" in names and "lm_head.weight" not in names
    model = rows.load(path)
    assert model.lm_head.weight is model.transformer.wte.weight


@pytest.mark.parametrize("kind", [*PAGED, "llama", "qwen2", "gemma2", "gemma3"])
def test_logits_are_the_same_bits_however_the_tokens_come(tmp_path: Path, kind: str) -> None:
    if kind in OTHERS:
        model = rows.load(in_rows(tmp_path, kind))
    else:
        path, quantized = make_quantized(tmp_path, kind)
        model = restore(quantized, path)
    runner = make_runner(model)
    assert isinstance(runner, PagedRunner)
    runner.allocate(32, 16)
    alone = runner.run([chunk("a", IDS, 0, [0, 1, 2], 40)])
    others = random_ids(30, seed=1)
    first = runner.run(
        [chunk("a", IDS[:7], 0, [7, 8, 9], 0), chunk("b", others[:13], 0, [10, 11], 1)]
    )
    second = runner.run(
        [chunk("b", others[13:20], 13, [10, 11], 7), chunk("a", IDS[7:39], 7, [7, 8, 9], 32)]
    )
    third = runner.run(
        [chunk("b", others[20:21], 20, [10, 11], 1), chunk("a", IDS[39:], 39, [7, 8, 9], 1)]
    )
    assert torch.equal(second[7:], alone[7:39]) and torch.equal(third[1], alone[39])
    b_alone = runner.run([chunk("b", others[:21], 0, [3, 4], 21)])
    assert torch.equal(b_alone[12:21], torch.cat([first, second[:7], third[:1]]))


@pytest.mark.parametrize("kind", ["gpt2", "olmo2", "falcon", "opt", "bloom"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_engine_gives_the_same_tokens_alone_and_in_a_batch(
    tmp_path: Path, kind: str, temperature: float
) -> None:
    path = in_rows(tmp_path, kind)
    per_token = read_quantized(path).kv_bytes_per_token
    engine = NativeEngine()
    engine.load(path, MANIFEST | {"kv_bytes_per_token": per_token}, "cpu", 1)
    works = {
        str(i): GenerateWork(
            tuple(random_ids(3 + i, seed=i)),
            SamplingParams(max_tokens=6, temperature=temperature, seed=i),
        )
        for i in range(8)
    }
    alone = {name: run_works(engine, {name: work})[name] for name, work in works.items()}
    assert run_works(engine, works) == alone
    assert run_works(engine, works, per_step=2) == alone


def test_the_model_says_what_its_cache_takes(tmp_path: Path) -> None:
    for kind in ("gpt2", "olmo2", "phi", "opt"):
        path = in_rows(tmp_path / kind, kind)
        runner = make_runner(rows.load(path))
        assert read_quantized(path).kv_bytes_per_token == runner.kv_bytes_per_token


def test_an_adapter_runs_over_it(tmp_path: Path) -> None:
    path = in_rows(tmp_path)
    base = load_pretrained(AutoModelForCausalLM, tmp_path / "source", {}, "cpu")
    adapter = save_adapter(tmp_path / "adapter", base, target_modules=["c_attn", "c_proj"])
    runner = make_runner(rows.load(path))
    runner.allocate(8, 16)
    runner.load_adapter("x", adapter)
    ours = runner.run([chunk("a", IDS, 0, [0, 1, 2], 40, "x")])
    assert error(ours, logits_of(load_adapted(base, adapter), IDS)) < 0.06


def test_a_network_whose_weights_are_elsewhere_is_refused_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(OTHERS, "mixtral", decoders.EXPERTS)
    source = make_decoder(tmp_path / "source", "mixtral")
    with pytest.raises(UnsupportedTaskError, match="too few of its weights"):
        quantize_directory(source, tmp_path / "q", "int8")
    assert not (tmp_path / "q").exists()


def test_int4_is_for_llama_like_models_only(tmp_path: Path) -> None:
    source = make_decoder(tmp_path / "source", "gpt2")
    with pytest.raises(UnsupportedTaskError, match="quantise it to int8"):
        quantize_directory(source, tmp_path / "q", "int4")
    assert not (tmp_path / "q").exists()


def test_quantising_that_is_broken_off_leaves_no_weights(tmp_path: Path) -> None:
    source = make_decoder(tmp_path / "source", "gpt2")

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_directory(source, tmp_path / "q", "int8", stop)
    assert not (tmp_path / "q" / "quantized.safetensors").exists()


@pytest.mark.parametrize("changes", [{"n_embd": 32}, {"n_layer": 3}, {"n_layer": 1}])
def test_a_config_of_another_network_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = in_rows(tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InvalidModelError, match=r"config\.json names another network"):
        rows.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("transformer.ln_f.weight"),
        lambda t: t.update({"more.weight": torch.zeros(2, 2)}),
        lambda t: t.update({"transformer.ln_f.weight": torch.ones(VOCAB)}),
        lambda t: t.update(
            {"transformer.wpe.weight": t["transformer.wte.weight"].clone()}
            | {"transformer.wpe.scale": t["transformer.wte.scale"].clone()}
        ),
    ],
)
def test_tensors_of_another_network_are_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    path = in_rows(tmp_path)
    rewrite(path, change)
    with pytest.raises(InvalidModelError, match=r"config\.json names another network"):
        rows.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("transformer.wte.scale"),
        lambda t: t.update({"transformer.wte.scale": torch.ones(VOCAB + 1)}),
        lambda t: t.update({"transformer.ln_f.weight": torch.ones(64, dtype=torch.int64)}),
    ],
)
def test_a_damaged_file_is_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    path = in_rows(tmp_path)
    rewrite(path, change)
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors is damaged"):
        rows.load(path)
    (path / "quantized.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(InvalidModelError, match=r"quantized\.safetensors"):
        rows.load(path)
