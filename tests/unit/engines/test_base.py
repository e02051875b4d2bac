"""Estimates and checks that the server and every engine share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmos.engines import base
from llmos.engines.base import find_device
from llmos.engines.builtin import llmos_engines
from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.types import GenerateWork, SamplingParams

LLAMA: dict[str, Any] = {
    "engine": "native",
    "parameters": 1_000_000,
    "dtype": "bfloat16",
    "weights_bytes": 2_000_000,
    "kv_bytes_per_token": 1000,
    "context_tokens": 512,
}


def test_a_cpu_computes_in_float32_and_a_gpu_as_stored() -> None:
    cpu, gpu = base.estimate(LLAMA, "cpu"), base.estimate(LLAMA, "cuda:0")
    assert cpu == base.Estimate(4_000_000, 2000, 2000 * 512 * 16)
    assert gpu == base.Estimate(2_000_000, 1000, 1000 * 512 * 16)
    assert cpu.total_bytes == 4_000_000 + 2000 * 512 * 16


def test_the_kv_cache_stays_within_its_budget() -> None:
    huge = LLAMA | {"context_tokens": 10**6}
    assert base.estimate(huge).kv_cache_bytes <= base.DEFAULT_KV_CACHE_BYTES
    assert base.estimate(huge | {"kv_cache_bytes": 10**6}).kv_cache_bytes <= 10**6


def test_of_the_cache_all_but_one_context_can_be_spared() -> None:
    assert base.spare_bytes(LLAMA) == 2000 * 512 * 15
    assert base.spare_bytes(LLAMA | {"context_tokens": 500}) == 2000 * (500 * 16 - 512)
    assert base.spare_bytes(LLAMA | {"kv_cache_bytes": 10**6}) == 0
    assert base.spare_bytes(LLAMA | {"engine": "pipelines"}) == 0


@pytest.mark.parametrize("draft", [{}, {"draft": LLAMA | {"kv_bytes_per_token": 300}}])
def test_a_model_told_to_takes_less(draft: dict[str, object]) -> None:
    manifest = LLAMA | draft
    whole = base.estimate(manifest).total_bytes
    for short_bytes in (0, 1, 10**6, base.spare_bytes(manifest)):
        smaller = base.with_smaller_cache(manifest, short_bytes)
        assert base.estimate(smaller).total_bytes <= whole - short_bytes
        assert base.kv_cache_tokens(smaller, 2000) >= 512


def test_only_the_native_engine_has_a_kv_cache_and_echo_takes_nothing() -> None:
    assert base.estimate(LLAMA | {"engine": "pipelines"}) == base.Estimate(4_000_000)
    assert base.estimate(LLAMA | {"engine": "echo"}).total_bytes == 0


def test_weights_bytes_stand_in_for_an_unknown_parameter_count() -> None:
    assert base.estimate(LLAMA | {"parameters": 0}).weights_bytes == 4_000_000


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"logit_bias": ((3, 100.5),)}, "logit_bias"),
        ({"logit_bias": ((3, float("nan")),)}, "logit_bias"),
        ({"logit_bias": ((1, 1.0), (10**6, 1.0))}, "logit_bias"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias"),
        ({"presence_penalty": float("inf")}, "presence_penalty"),
        ({"logprobs": -1}, "logprobs"),
        ({"logprobs": 10**6}, "logprobs"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        base.check_generate(GenerateWork((1,), SamplingParams(**fields)), 10, 100)
    assert caught.value.param == param


def test_a_prompt_must_leave_room_for_an_answer() -> None:
    base.check_generate(GenerateWork((1,) * 9, SamplingParams()), 10, 10)
    with pytest.raises(ContextLengthError, match="10 tokens"):
        base.check_generate(GenerateWork((1,) * 10, SamplingParams()), 10, 10)


def test_the_torch_free_modules_import_no_torch() -> None:
    program = (
        "import sys, llmos.engines.base, llmos.engines.host, llmos.engines.echo, "
        "llmos.engines.builtin; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_every_built_in_engine_is_where_the_hook_says() -> None:
    import importlib

    for path in llmos_engines().values():
        module, _, name = path.partition(":")
        engine = getattr(importlib.import_module(module), name)()
        for method in ("load", "submit", "cancel", "step", "unload", "estimate", "has_work"):
            assert hasattr(engine, method)


def test_auto_is_the_cpu_where_no_nvidia_driver_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "NVIDIA_DRIVER", tmp_path / "version")
    assert find_device("auto") == "cpu"
    assert find_device("cuda:1") == "cuda:1"


@pytest.mark.parametrize(("available", "device"), [(True, "cuda:0"), (False, "cpu")])
def test_auto_is_the_first_cuda_device_where_torch_can_use_it(
    available: bool, device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(base, "NVIDIA_DRIVER", driver)
    monkeypatch.setattr("torch.cuda.is_available", lambda: available)
    assert find_device("auto") == device


@pytest.mark.parametrize(
    ("wanted", "capacity_bytes", "dtype"),
    [
        ("auto", 10**9, "float32"),
        ("auto", 300, "bfloat16"),
        ("auto", 100, "float32"),  # neither fits: the error is to speak of the real size
        ("stored", 300, "bfloat16"),
        ("float32", 300, "float32"),
        ("bfloat16", 10**9, "bfloat16"),
    ],
)
def test_a_cpu_computes_in_bfloat16_where_only_that_fits(
    wanted: str, capacity_bytes: int, dtype: str
) -> None:
    manifest = {"engine": "native", "dtype": "bfloat16", "parameters": 100}
    assert base.cpu_dtype(manifest, wanted, capacity_bytes) == dtype


def test_the_estimate_is_of_what_is_computed_in() -> None:
    manifest = {"engine": "native", "dtype": "bfloat16", "parameters": 100}
    half = base.estimate({**manifest, "compute_dtype": "bfloat16"})
    assert half.weights_bytes == 200 and base.estimate(manifest).weights_bytes == 400
