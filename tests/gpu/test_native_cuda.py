"""The native engine on a CUDA device: the same greedy oracle in float32, and a bfloat16 smoke test.

Run where there is one: ``pytest tests/gpu -s`` (``-s`` shows the throughput).
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from tests.unit.engines.families import (
    FAMILIES,
    MANIFEST,
    ROWWISE,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)

from llmos.engines.native.engine import NativeEngine
from llmos.engines.pipelines import PipelinesEngine
from llmos.types import GenerateWork, SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = "cuda:0"
MAX_TOKENS = 12


@pytest.fixture(autouse=True)
def exact_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.mark.parametrize("name", [*FAMILIES, *ROWWISE])
def test_greedy_tokens_equal_generate_in_float32(tmp_path: Path, name: str) -> None:
    directory = make_model(tmp_path, name)
    model = load_oracle(directory, DEVICE)
    works = {str(i): greedy(prompt, MAX_TOKENS) for i, prompt in enumerate(prompts(16))}
    expected = {i: generate(model, w.prompt_ids, MAX_TOKENS) for i, w in works.items()}
    for options in ({}, {"block_size": 4, "max_step_tokens": 9}):
        engine = NativeEngine(**options)
        engine.load(directory, MANIFEST, DEVICE, 2)
        assert run_works(engine, works, per_step=3) == expected


def test_sampled_tokens_do_not_depend_on_the_batch(tmp_path: Path) -> None:
    directory = make_model(tmp_path, "llama")
    engine = NativeEngine()
    engine.load(directory, MANIFEST, DEVICE, 2)
    works = {
        str(i): GenerateWork(prompt, SamplingParams(12, temperature=30.0, top_p=0.9, seed=i))
        for i, prompt in enumerate(prompts(16))
    }
    together = run_works(engine, works)
    assert all(run_works(engine, {i: work}) == {i: together[i]} for i, work in works.items())


def test_unloading_gives_the_memory_back(tmp_path: Path) -> None:
    directory = make_model(tmp_path, "llama")
    before = torch.cuda.memory_allocated()
    engine = NativeEngine()
    size = engine.load(directory, MANIFEST, DEVICE, 2)
    assert torch.cuda.memory_allocated() - before >= size * 0.9
    engine.unload()
    assert torch.cuda.memory_allocated() - before < size * 0.1


@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_bfloat16_decodes(
    tmp_path: Path, num_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 512}
    directory = make_model(tmp_path, "llama", vocab_size=32_000, **sizes, **heads)
    engine = NativeEngine()
    engine.load(directory, {"context_tokens": 512}, DEVICE, 2)
    works = {str(i): greedy(range(1, 30 + i), 128) for i in range(num_rows)}
    begun = time.perf_counter()
    tokens = run_works(engine, works)
    rate = sum(map(len, tokens.values())) / (time.perf_counter() - begun)
    with capsys.disabled():
        print(f"\nbfloat16, {num_rows} rows: {rate:.0f} tokens/s")
    assert all(len(row) == 128 for row in tokens.values())


def test_pipelines_run_on_the_device(tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, T5Config

    from llmos.types import PipelineWork

    config = T5Config(
        vocab_size=61, d_model=32, d_kv=16, d_ff=48, num_layers=2, num_heads=2,
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    engine = PipelinesEngine()
    engine.load(tmp_path, {"context_tokens": 40}, DEVICE, 2)
    engine.submit("a", PipelineWork("seq2seq", (4, 5, 6), {"max_tokens": 8, "num_beams": 2}))
    assert [work_id for work_id, _ in engine.step()] == ["a"]
