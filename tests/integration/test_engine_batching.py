"""Prefix cache, preemption and speculation with real networks: they change no token."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.families import (
    CONTEXT,
    MANIFEST,
    VOCAB,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)

from llmos.engines import base
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.predictor import StepCost
from llmos.engines.native.quantize import quantize_directory
from llmos.engines.native.sequences import Sequence
from llmos.engines.native.served import ServedModel
from llmos.engines.native.speculation import Speculator
from llmos.errors import InvalidModelError
from llmos.library.quantized import read_quantized
from llmos.types import GenerateWork, Priority, SamplingParams, TokensOut

MAX_TOKENS = 10
NAMES = ["llama", "gemma2", "gpt2"]
Directories = Callable[[str], Path]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    made: dict[str, Path] = {}

    def directory(name: str) -> Path:
        if name not in made:
            made[name] = make_model(tmp_path_factory.mktemp(name), name)
        return made[name]

    return directory


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def load(directory: Path, manifest: dict[str, Any] | None = None, **options: Any) -> NativeEngine:
    engine = NativeEngine(**{"block_size": 4, "itl_target_s": math.inf} | options)
    engine.load(directory, MANIFEST | (manifest or {}), "cpu", 1)
    return engine


def sampled(prompt: tuple[int, ...], seed: int, **fields: Any) -> GenerateWork:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=30.0, top_p=0.95, seed=seed)
    return GenerateWork(prompt, sampling, **fields)


STEM = prompts(1, 1)[0] * 3 + tuple(range(20, 41))


def mixed_works() -> dict[str, GenerateWork]:
    """Greedy and sampled, half of them with one beginning."""
    works: dict[str, GenerateWork] = {}
    for i, prompt in enumerate(prompts(10, 20)):
        whole = (*STEM, *prompt) if i % 2 else prompt
        works[str(i)] = greedy(whole, MAX_TOKENS) if i % 3 else sampled(whole, seed=i)
    return works


def alone(directory: Path, works: dict[str, GenerateWork]) -> dict[str, list[int]]:
    """What each work gets by itself, from an engine that has seen nothing."""
    engine = load(directory, speculates=False)
    tokens: dict[str, list[int]] = {}
    for i, work in works.items():
        assert engine._runner is not None
        engine.serve(ServedModel(engine._runner, 64, VOCAB, CONTEXT))
        tokens |= run_works(engine, {i: work})
    return tokens


class Eager(Speculator):
    """Guesses all it can, whether it pays or not."""

    def propose(self, sequences: Any, room: Any, cost: StepCost) -> int:
        chosen = []
        for sequence, most in zip(sequences, room, strict=True):
            sequence.drafts = []
            if most and (kind := self.drafter.kind(sequence)) is not None:
                self._by_sequence.setdefault(sequence.id, (kind, self._kind_record(kind)))
                chosen.append((sequence, min(most, 4)))
        guesses = self.drafter.draft([s for s, _ in chosen], [count for _, count in chosen])
        for (sequence, _), drafts in zip(chosen, guesses, strict=True):
            sequence.drafts = drafts
        return sum(map(len, guesses))


@dataclass
class HalfRight:
    """Guesses what is known to come, with every third token wrong."""

    answers: dict[str, list[int]]

    def kind(self, sequence: Sequence) -> int | None:
        return 0

    def draft(self, sequences: Any, counts: Any) -> list[list[int]]:
        guesses = []
        for sequence, count in zip(sequences, counts, strict=True):
            done = sequence.num_generated
            coming = self.answers[sequence.id][done : done + count]
            wrong = [(t + 1) % VOCAB if (done + i) % 3 == 2 else t for i, t in enumerate(coming)]
            guesses.append(wrong)
        return guesses

    def forget(self, sequence_id: str) -> None:
        pass


@pytest.mark.parametrize("name", NAMES)
def test_a_cached_prefix_changes_no_token(directories: Directories, name: str) -> None:
    works = mixed_works()
    expected = alone(directories(name), works)
    engine = load(directories(name))
    assert run_works(engine, works, per_step=1) == expected
    before = engine.stats().prefix_hit_tokens
    assert before >= 4 * 20
    assert run_works(engine, works) == expected
    hits = engine.stats().prefix_hit_tokens - before
    whole = sum((len(work.prompt_ids) - 1) // 4 * 4 for work in works.values())
    assert hits == whole


@pytest.mark.parametrize("name", NAMES)
def test_preemption_by_better_classes_changes_no_token(directories: Directories, name: str) -> None:
    works = mixed_works()
    expected = alone(directories(name), works)
    engine = load(directories(name), max_rows=3, max_step_tokens=12)
    assert engine._runner is not None
    engine.serve(ServedModel(engine._runner, 20, VOCAB, CONTEXT))
    ranked = {
        i: GenerateWork(work.prompt_ids, work.sampling, priority=Priority(3 - n * 4 // len(works)))
        for n, (i, work) in enumerate(works.items())
    }
    assert run_works(engine, ranked, per_step=1) == expected
    assert sum(engine.stats().preemptions) >= 5
    assert engine.stats().kv_used_blocks == 0


@pytest.mark.parametrize("name", NAMES)
def test_guesses_right_and_wrong_change_no_token(directories: Directories, name: str) -> None:
    works = mixed_works()
    expected = alone(directories(name), works)
    engine = load(directories(name))
    engine._speculator = Eager(HalfRight(expected))
    assert run_works(engine, works, per_step=2) == expected
    stats = engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert run_works(engine, works) == expected  # and what was wrong is not in the prefix cache


def test_guesses_change_no_token_under_penalties(directories: Directories) -> None:
    works = {
        str(i): GenerateWork(
            prompt,
            SamplingParams(
                max_tokens=MAX_TOKENS,
                temperature=0.0 if i % 2 else 20.0,
                seed=i,
                repetition_penalty=1.5,
                frequency_penalty=0.7,
                no_repeat_ngram_size=2,
                logprobs=2,
            ),
        )
        for i, prompt in enumerate(prompts(6, 20))
    }
    expected = alone(directories("llama"), works)
    engine = load(directories("llama"))
    engine._speculator = Eager(HalfRight(expected))
    assert run_works(engine, works) == expected
    assert engine.stats().accepted_tokens > 0


@pytest.mark.parametrize("same", [True, False])
def test_a_draft_model_changes_no_token(
    directories: Directories, tmp_path: Path, same: bool
) -> None:
    works = mixed_works()
    expected = alone(directories("llama"), works)
    small = directories("llama") if same else make_model(tmp_path, "gpt2")
    draft = {**MANIFEST, "path": str(small)}
    engine = load(directories("llama"), {"draft": draft})
    assert engine._speculator is not None
    engine._speculator = Eager(engine._speculator.drafter)
    assert run_works(engine, works, per_step=2) == expected
    stats = engine.stats()
    assert stats.draft_tokens > 0
    if same:
        assert stats.accepted_tokens >= 0.9 * stats.draft_tokens


@pytest.mark.parametrize("same", [True, False])
def test_a_quantised_draft_of_a_quantised_model_changes_no_token(
    directories: Directories, tmp_path: Path, same: bool
) -> None:
    works = mixed_works()
    quantize_directory(directories("llama"), tmp_path / "target", "int8")
    small = directories("llama" if same else "gemma2")
    quantize_directory(small, tmp_path / "small", "int8")
    manifest = MANIFEST | read_quantized(tmp_path / "target").manifest_keys()
    expected = run_works(load(tmp_path / "target", manifest, block_size=16), works)
    draft = MANIFEST | read_quantized(tmp_path / "small").manifest_keys()
    engine = load(
        tmp_path / "target",
        manifest | {"draft": draft | {"path": str(tmp_path / "small")}},
        block_size=16,
    )
    engine._speculator = Eager(engine._speculator.drafter)
    assert run_works(engine, works, per_step=2) == expected
    assert engine.stats().draft_tokens > 0
    if same:
        assert engine.stats().accepted_tokens >= 0.9 * engine.stats().draft_tokens


def test_a_draft_model_guesses_nothing_for_what_is_too_long_for_it(
    directories: Directories, tmp_path: Path
) -> None:
    works = mixed_works()
    expected = alone(directories("llama"), works)
    draft = {**MANIFEST, "path": str(make_model(tmp_path, "gpt2", n_positions=24))}
    assert max(len(work.prompt_ids) for work in works.values()) > 24
    engine = load(directories("llama"), {"draft": draft})
    engine._speculator = Eager(engine._speculator.drafter)
    assert run_works(engine, works, per_step=2) == expected
    assert engine.stats().draft_tokens > 0


def test_a_draft_model_with_other_words_is_refused(
    directories: Directories, tmp_path: Path
) -> None:
    draft = {**MANIFEST, "path": str(make_model(tmp_path, "llama", vocab_size=50))}
    with pytest.raises(InvalidModelError, match="vocabulary"):
        load(directories("llama"), {"draft": draft})


def test_the_draft_model_counts_in_the_estimate() -> None:
    manifest = {**MANIFEST, "parameters": 1000, "kv_bytes_per_token": 8}
    draft = {**manifest, "parameters": 100, "kv_bytes_per_token": 2}
    alone, both = base.estimate(manifest), base.estimate({**manifest, "draft": draft})
    assert both.weights_bytes == alone.weights_bytes + 400
    assert both.kv_cache_bytes == alone.kv_cache_bytes * 10 // 8


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_a_prompts_log_probabilities_are_those_of_the_models_own_forward(
    directories: Directories, name: str
) -> None:
    prompt = prompts(6, 30)[4]
    model = load_oracle(directories(name))
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, :-1]
    expected = logits.log_softmax(dim=-1).gather(1, torch.tensor(prompt)[1:, None])[:, 0]
    engine = load(directories(name), max_step_tokens=7)
    sampling = SamplingParams(max_tokens=3, temperature=0)
    work = GenerateWork(prompt, sampling, prompt_logprobs=1)
    engine.submit("other", greedy(prompts(6, 30)[5], 8))
    engine.submit("a", work)
    outs = [out for _ in range(30) for i, out in engine.step() if i == "a"]
    pieces = [piece for out in outs for piece in out.prompt]  # type: ignore[union-attr]
    assert [piece.token_id for piece in pieces] == list(prompt[1:])
    assert [piece.logprob for piece in pieces] == pytest.approx(expected.tolist(), abs=1e-3)
    tokens = [p.token_id for o in outs if isinstance(o, TokensOut) for p in o.pieces]
    assert tokens == generate(model, prompt, 3)


def test_several_logits_of_a_chunk_are_those_of_single_steps(directories: Directories) -> None:
    from llmos.engines.native.attention import RowChunk

    engine = load(directories("gemma2"))
    runner = engine._runner
    assert runner is not None
    ids, blocks, other = prompts(6, 30)[4], list(range(8)), list(range(8, 16))
    runner.run([RowChunk("a", ids[:-4], 0, blocks, 0)])
    many = runner.run([RowChunk("a", ids[-4:], len(ids) - 4, blocks, 4)])
    runner.run([RowChunk("b", ids[:-4], 0, other, 0)])
    for i in range(4):
        position = len(ids) - 4 + i
        one = runner.run([RowChunk("b", ids[position : position + 1], position, other, 1)])
        assert torch.allclose(one[0], many[i], atol=1e-4, rtol=1e-4)
