"""Decode graphs give the tokens of the eager path, whatever the step is padded with.

There is no CUDA here: what is captured is recorded operation by operation and called again, with
none of the model's Python, as a graph would.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.families import (
    CONTEXT,
    FAMILIES,
    MANIFEST,
    VOCAB,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)
from tests.unit.engines.recorded import record

from llmos.engines.native import runner as runners
from llmos.engines.native.attention import RowChunk
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.graphs import Capture, Compute, DecodeGraphs
from llmos.engines.native.runner import PagedRunner
from llmos.engines.native.served import ServedModel
from llmos.types import GenerateWork, Priority, SamplingParams

MAX_TOKENS = 12
DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}

Serve = Callable[..., NativeEngine]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Loads a model on the CPU as if graphs could be captured there."""

    def load(path: Path, num_blocks: int | None = None, **options: Any) -> NativeEngine:
        capture = options.pop("capture", record)
        monkeypatch.setattr(runners, "capture_for", lambda device: capture)
        engine = NativeEngine(**{"itl_target_s": math.inf} | options)
        engine.load(path, MANIFEST, "cpu", 1)
        if num_blocks is not None:
            assert engine._runner is not None
            engine.serve(ServedModel(engine._runner, num_blocks, VOCAB, CONTEXT))
        return engine

    return load


def paged(engine: NativeEngine) -> PagedRunner:
    assert isinstance(engine._runner, PagedRunner)
    return engine._runner


def graphs(engine: NativeEngine) -> DecodeGraphs:
    decodes = paged(engine)._decodes
    assert decodes is not None
    return decodes


def sampled(prompt: tuple[int, ...], seed: int, **fields: Any) -> GenerateWork:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=30.0, top_p=0.95, seed=seed)
    return GenerateWork(prompt, sampling, **fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_generate(tmp_path: Path, serve: Serve, name: str) -> None:
    directory = make_model(tmp_path, name)
    model = load_oracle(directory)
    works = {str(i): greedy(prompt, MAX_TOKENS) for i, prompt in enumerate(prompts(16))}
    expected = {i: generate(model, work.prompt_ids, MAX_TOKENS) for i, work in works.items()}
    for options in ({}, {"block_size": 4, "max_step_tokens": 9, "num_blocks": CONTEXT // 4}):
        engine = serve(directory, **options)
        assert run_works(engine, works, per_step=3) == expected
        decodes = graphs(engine)._decodes.values()
        assert decodes
        assert all(decode.replay is not decode.compute for decode in decodes)


def test_sampled_tokens_are_those_of_the_eager_path(tmp_path: Path, serve: Serve) -> None:
    directory = make_model(tmp_path, "llama")
    works = {str(i): sampled(prompt, seed=i) for i, prompt in enumerate(prompts(11))}
    eager = serve(directory, capture=None)
    assert paged(eager)._decodes is None
    expected = run_works(eager, works, per_step=3)
    engine = serve(directory, speculates=False)
    assert run_works(engine, works, per_step=3) == expected
    assert all(run_works(engine, {i: work}) == {i: expected[i]} for i, work in works.items())


def test_preempted_rows_and_cached_prefixes_keep_their_tokens(tmp_path: Path, serve: Serve) -> None:
    directory = make_model(tmp_path, "qwen3")
    work = sampled(prompts(5)[4], seed=3, priority=Priority.BATCH)
    expected = run_works(serve(directory, capture=None), {"a": work})["a"]
    engine = serve(directory, block_size=4, max_rows=1, speculates=False)
    engine.submit("a", work)
    outs = [out for _ in range(6) for out in engine.step()]
    engine.submit("now", greedy((1, 2, 3), 3, priority=Priority.INTERACTIVE))
    while engine.has_work:
        outs += engine.step()
    assert [p.token_id for i, out in outs if i == "a" for p in out.pieces] == expected  # type: ignore[union-attr]
    assert engine.stats().preemptions[Priority.BATCH] == 1
    assert run_works(engine, {"again": work}) == {"again": expected}
    assert engine.stats().prefix_hit_tokens > 0


def test_a_shape_is_captured_once_and_the_model_is_not_called_again(
    tmp_path: Path, serve: Serve
) -> None:
    engine = serve(make_model(tmp_path, "llama"), speculates=False)
    calls: list[int] = []
    paged(engine)._model.register_forward_hook(lambda *_: calls.append(1))
    works = {str(i): greedy((i + 1, 2, 3), MAX_TOKENS) for i in range(3)}
    run_works(engine, works)
    # The prompts, and the one shape of 4 rows: computed, then captured.
    assert len(calls) == 3
    run_works(engine, works)
    assert len(calls) == 4
    assert list(graphs(engine)._decodes) == [(4, 3 + 8)]


def test_what_is_computed_for_no_row_touches_no_row(tmp_path: Path, serve: Serve) -> None:
    engine = serve(make_model(tmp_path, "llama"), num_blocks=4)
    runner = paged(engine)
    cache = runner._cache
    assert cache is not None
    runner.run([RowChunk("a", (1, 2, 3), 0, [0], 1)])
    stored = [*cache._keys.values(), *cache._values.values()]
    stored[0].view(cache.num_blocks, -1)[-1] = torch.nan
    before = [s.clone() for s in stored]
    rows = [RowChunk(str(i), (4 + i,), 3, [i], 1) for i in range(3)]
    logits = runner.run(rows).clone()
    for old, new in zip(before, stored, strict=True):
        changed = (old != new).flatten(1).any(1)[: -cache.block_size].nonzero()[:, 0].tolist()
        assert changed == [i * cache.block_size + 3 for i in range(3)]
    assert logits.shape == (3, VOCAB)
    assert logits.isfinite().all()
    assert torch.allclose(runner.run(rows[:1]), logits[:1], atol=1e-5)


def test_adapters_prompts_and_drafts_are_not_for_graphs() -> None:
    decodes = DecodeGraphs(None, None, 0, record)  # type: ignore[arg-type]
    decode = RowChunk("a", (1,), 5, [0], 1)
    assert decodes.takes([decode] * 64)
    assert not decodes.takes([])
    assert not decodes.takes([decode] * 65)
    for other in (
        RowChunk("b", (1,), 5, [0], 1, "adapter"),
        RowChunk("b", (1, 2), 5, [0], 1),
        RowChunk("b", (1, 2), 5, [0], 2),
        RowChunk("b", (1,), 5, [0], 0),
    ):
        assert not decodes.takes([decode, other])


def test_a_model_that_looks_at_its_numbers_is_not_captured(tmp_path: Path, serve: Serve) -> None:
    """Rotary embeddings that grow with the longest row."""
    directory = make_model(tmp_path, "llama", rope_parameters=DYNAMIC)
    engine = serve(directory)
    work = greedy(prompts(5)[4], MAX_TOKENS)
    assert run_works(engine, {"a": work}) == {
        "a": generate(load_oracle(directory), work.prompt_ids, MAX_TOKENS)
    }
    assert all(decode.replay is decode.compute for decode in graphs(engine)._decodes.values())


def test_where_capturing_fails_the_step_is_computed(tmp_path: Path, serve: Serve) -> None:
    def fail(compute: Compute) -> Compute:
        raise torch.OutOfMemoryError("no room for a graph")

    capture: Capture = fail
    directory = make_model(tmp_path, "llama")
    work = greedy(prompts(5)[4], MAX_TOKENS)
    expected = run_works(serve(directory, capture=None), {"a": work})
    assert run_works(serve(directory, capture=capture), {"a": work}) == expected


def test_on_a_cpu_nothing_is_captured() -> None:
    assert runners.capture_for(torch.device("cpu")) is None
