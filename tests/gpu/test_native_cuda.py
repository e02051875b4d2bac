"""The native engine on a CUDA device: the oracles in float32, decode graphs, a bfloat16 smoke test.

Run where there is one: ``pytest tests/gpu -s`` (``-s`` shows the throughput).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.families import (
    CONTEXT,
    FAMILIES,
    MANIFEST,
    ROWWISE,
    VOCAB,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)

from llmos.engines.native import runner as runners
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.graphs import DecodeGraphs
from llmos.engines.native.runner import PagedRunner
from llmos.engines.native.served import ServedModel
from llmos.engines.pipelines import PipelinesEngine
from llmos.errors import LlmosError
from llmos.types import GenerateWork, Priority, SamplingParams

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = "cuda:0"
MAX_TOKENS = 12


def graphs(engine: NativeEngine) -> DecodeGraphs:
    assert isinstance(engine._runner, PagedRunner)
    decodes = engine._runner._decodes
    assert decodes is not None
    return decodes


def sampled(prompt: tuple[int, ...], seed: int, **fields: Any) -> GenerateWork:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=30.0, top_p=0.9, seed=seed)
    return GenerateWork(prompt, sampling, **fields)


@pytest.mark.parametrize("name", [*FAMILIES, *ROWWISE])
def test_greedy_tokens_equal_generate_in_float32(tmp_path: Path, name: str) -> None:
    """Also through chunked prefill, and preemption in a cache for one long row."""
    directory = make_model(tmp_path, name)
    model = load_oracle(directory, DEVICE)
    works = {str(i): greedy(prompt, MAX_TOKENS) for i, prompt in enumerate(prompts(16))}
    expected = {i: generate(model, w.prompt_ids, MAX_TOKENS) for i, w in works.items()}
    for options in ({}, {"block_size": 4, "max_step_tokens": 9}):
        engine = NativeEngine(**options)
        engine.load(directory, MANIFEST, DEVICE, 2)
        assert run_works(engine, works, per_step=3) == expected
        if options:
            runner = engine._runner
            assert runner is not None
            engine.serve(ServedModel(runner, CONTEXT // 4, VOCAB, CONTEXT))
            assert run_works(engine, works, per_step=2) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_every_decode_step_is_replayed_from_a_graph(tmp_path: Path, name: str) -> None:
    engine = NativeEngine(speculates=False)
    engine.load(make_model(tmp_path, name), MANIFEST, DEVICE, 2)
    for count in (1, 3, 16, 64):
        run_works(engine, {str(i): greedy((i + 1, 2), 4) for i in range(count)})
    decodes = graphs(engine)._decodes
    assert {1, 4, 16, 64} <= {rows for rows, _ in decodes}
    assert all(decode.replay is not decode.compute for decode in decodes.values())


def test_a_model_that_looks_at_its_numbers_runs_without_graphs(tmp_path: Path) -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    directory = make_model(tmp_path, "llama", rope_parameters=rope)
    engine = NativeEngine()
    engine.load(directory, MANIFEST, DEVICE, 2)
    work = greedy(prompts(5)[4], MAX_TOKENS)
    expected = generate(load_oracle(directory, DEVICE), work.prompt_ids, MAX_TOKENS)
    assert run_works(engine, {"a": work}) == {"a": expected}
    assert all(decode.replay is decode.compute for decode in graphs(engine)._decodes.values())


def test_sampled_tokens_do_not_depend_on_the_batch_or_on_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make_model(tmp_path, "llama")
    works = {str(i): sampled(prompt, seed=i) for i, prompt in enumerate(prompts(16))}
    engine = NativeEngine(speculates=False)
    engine.load(directory, MANIFEST, DEVICE, 2)
    together = run_works(engine, works)
    assert all(run_works(engine, {i: work}) == {i: together[i]} for i, work in works.items())
    monkeypatch.setattr(runners, "capture_for", lambda device: None)
    eager = NativeEngine()
    eager.load(directory, MANIFEST, DEVICE, 2)
    assert run_works(eager, works, per_step=3) == together


def test_preempted_rows_and_cached_prefixes_keep_their_tokens(tmp_path: Path) -> None:
    engine = NativeEngine(block_size=4, max_rows=1, speculates=False)
    engine.load(make_model(tmp_path, "qwen3"), MANIFEST, DEVICE, 2)
    work = sampled(prompts(5)[4], seed=3, priority=Priority.BATCH)
    expected = run_works(engine, {"a": work})["a"]
    assert run_works(engine, {"again": work}) == {"again": expected}
    assert engine.stats().prefix_hit_tokens > 0
    other = sampled(prompts(5)[4], seed=3, priority=Priority.BATCH, cache_salt=b"other")
    engine.submit("a", other)
    outs = [out for _ in range(6) for out in engine.step()]
    engine.submit("now", greedy((1, 2, 3), 3, priority=Priority.INTERACTIVE))
    while engine.has_work:
        outs += engine.step()
    assert [p.token_id for i, out in outs if i == "a" for p in out.pieces] == expected  # type: ignore[union-attr]
    assert engine.stats().preemptions[Priority.BATCH] == 1


def test_unloading_gives_the_memory_back(tmp_path: Path) -> None:
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_key_value_heads": 4}
    directory = make_model(tmp_path, "llama", vocab_size=32_000, **sizes)

    def used_by_serving() -> tuple[int, int]:
        before = torch.cuda.memory_allocated()
        engine = NativeEngine()
        size = engine.load(directory, MANIFEST, DEVICE, 2)
        assert torch.cuda.memory_allocated() - before >= size * 0.9
        run_works(engine, {str(i): greedy((1, i), 4) for i in range(5)})
        engine.unload()
        return size, torch.cuda.memory_allocated() - before

    used_by_serving()  # what torch sets up at its first matrix products stays
    size, left = used_by_serving()
    assert left < size * 0.1


@pytest.mark.parametrize("num_rows", [1, 16, 64])
def test_bfloat16_decodes(
    tmp_path: Path, num_rows: int, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "max_position_embeddings": 512}
    directory = make_model(tmp_path, "llama", vocab_size=32_000, **sizes, **heads)
    engine = NativeEngine(speculates=False)
    engine.load(directory, {"context_tokens": 512}, DEVICE, 2)
    works = {str(i): greedy(range(1, 30 + i), 128) for i in range(num_rows)}
    run_works(engine, works)  # captures the graphs
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
    outs = [out for _ in range(20) for out in engine.step()]
    assert [work_id for work_id, _ in outs] == ["a"]
    assert not isinstance(outs[0][1], LlmosError)
    assert not engine.has_work
