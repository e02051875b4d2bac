"""The native engine against transformers' ``generate``: same greedy tokens whatever the batch."""

from __future__ import annotations

import json
import math
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
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

from llmos.engines.native import batcher
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.runner import PagedRunner, RowwiseRunner
from llmos.engines.native.served import ServedModel
from llmos.errors import (
    ContextLengthError,
    EngineError,
    InvalidModelError,
    InvalidRequestError,
    UnsupportedTaskError,
)
from llmos.types import GenerateWork, PipelineWork, Priority, SamplingParams, TokensOut

MAX_TOKENS = 12


@dataclass(frozen=True)
class Case:
    """A model on disk, and what transformers continues 16 prompts with, each alone."""

    directory: Path
    model: Any
    prompts: dict[str, tuple[int, ...]]
    expected: dict[str, list[int]]

    def engine(
        self,
        manifest: dict[str, Any] | None = None,
        num_blocks: int | None = None,
        **options: Any,
    ) -> NativeEngine:
        """A loaded engine; ``num_blocks``: with so small a cache (one long row must fit)."""
        engine = NativeEngine(**{"itl_target_s": math.inf} | options)
        engine.load(self.directory, MANIFEST | (manifest or {}), "cpu", 1)
        if num_blocks is not None:
            runner = engine._runner
            assert runner is not None
            engine.serve(ServedModel(runner, num_blocks, VOCAB, CONTEXT))
        return engine

    def works(self, **fields: Any) -> dict[str, GenerateWork]:
        return {i: greedy(prompt, MAX_TOKENS, **fields) for i, prompt in self.prompts.items()}


Cases = Callable[[str], Case]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    made: dict[str, Case] = {}

    def case(name: str) -> Case:
        if name not in made:
            directory = make_model(tmp_path_factory.mktemp(name), name)
            model = load_oracle(directory)
            numbered = {str(i): prompt for i, prompt in enumerate(prompts(16))}
            expected = {i: generate(model, p, MAX_TOKENS) for i, p in numbered.items()}
            made[name] = Case(directory, model, numbered, expected)
        return made[name]

    return case


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[batcher.StepPlan]:
    """Every plan made from here on."""
    made: list[batcher.StepPlan] = []
    real = batcher.plan

    def plan(state: batcher.State) -> batcher.StepPlan:
        made.append(real(state))
        return made[-1]

    monkeypatch.setattr(batcher, "plan", plan)
    return made


@pytest.mark.parametrize("name", FAMILIES)
def test_alone_greedy_tokens_equal_generate(cases: Cases, name: str) -> None:
    case = cases(name)
    engine = case.engine()
    assert isinstance(engine._runner, PagedRunner)
    for i, work in list(case.works().items())[:4]:
        assert run_works(engine, {i: work}) == {i: case.expected[i]}


@pytest.mark.parametrize("name", [*FAMILIES, *ROWWISE])
def test_a_mixed_batch_of_16_gives_each_row_what_it_gets_alone(cases: Cases, name: str) -> None:
    case = cases(name)
    assert run_works(case.engine(), case.works()) == case.expected


@pytest.mark.parametrize("name", [*FAMILIES, *ROWWISE])
def test_joining_chunked_prefill_and_preemption_change_no_token(
    cases: Cases, name: str, plans: list[batcher.StepPlan]
) -> None:
    case = cases(name)
    engine = case.engine(block_size=4, max_step_tokens=9, num_blocks=CONTEXT // 4)
    assert run_works(engine, case.works(), per_step=2) == case.expected
    assert any(plan.preempted for plan in plans)
    assert any(1 < chunk.num_tokens < 9 for plan in plans for chunk in plan.chunks)
    assert engine.stats().kv_used_blocks == 0


@pytest.mark.parametrize("name", [*FAMILIES, *ROWWISE])
def test_an_interrupted_run_resumes_with_the_same_tokens(cases: Cases, name: str) -> None:
    case = cases(name)
    works = {
        i: greedy(prompt, MAX_TOKENS, generated_ids=tuple(case.expected[i][: n % MAX_TOKENS]))
        for n, (i, prompt) in enumerate(case.prompts.items())
    }
    rest = {i: case.expected[i][len(work.generated_ids) :] for i, work in works.items()}
    assert run_works(case.engine(), works) == rest


def test_attention_that_the_paged_cache_does_not_cover_runs_row_by_row(cases: Cases) -> None:
    for name in ROWWISE:
        assert isinstance(cases(name).engine()._runner, RowwiseRunner)


def test_the_cache_size_follows_the_budget(cases: Cases) -> None:
    per_token = 3 * 2 * 2 * 8 * 4  # layers, keys and values, heads, dim, float32
    engine = cases("llama").engine({"kv_cache_bytes": 40 * per_token}, block_size=4)
    assert engine.stats().kv_blocks == 10
    with pytest.raises(ContextLengthError):
        engine.submit("long", greedy(range(40), 1))
    assert len(run_works(engine, {"a": greedy(range(30), 99)})["a"]) == 10


def test_a_row_that_fills_the_context_ends_with_length(cases: Cases) -> None:
    engine = cases("gpt2").engine()
    engine.submit("a", greedy(range(60), 99))
    outs = [out for _ in range(4) for _, out in engine.step()]
    assert [len(out.pieces) for out in outs] == [1, 1, 1, 1]  # type: ignore[union-attr]
    assert outs[-1].finish_reason == "length"  # type: ignore[union-attr]
    assert not engine.has_work


def test_a_prompt_that_is_only_scored_may_fill_the_context(cases: Cases) -> None:
    engine = cases("gpt2").engine()
    prompt = tuple(range(CONTEXT))
    sampling = SamplingParams(max_tokens=1, logprobs=1)
    engine.submit("a", GenerateWork(prompt, sampling, prompt_logprobs=1))
    outs = [out for _ in range(3) for _, out in engine.step()]
    assert [piece.token_id for piece in outs[0].prompt] == list(prompt[1:])  # type: ignore[union-attr]
    assert (outs[0].pieces, outs[0].finish_reason) == ((), "length")  # type: ignore[union-attr]
    assert not engine.has_work
    with pytest.raises(ContextLengthError):
        engine.submit("b", GenerateWork(prompt, sampling))


def test_the_end_token_stops_a_row_and_is_not_reported(cases: Cases) -> None:
    case = cases("llama")
    expected = case.expected["3"]
    eos = expected[5]
    first = expected.index(eos)
    engine = case.engine()
    work = greedy(case.prompts["3"], MAX_TOKENS, eos_ids=(eos,))
    engine.submit("a", work)
    outs = [out for _ in range(first + 1) for _, out in engine.step()]
    assert outs[-1] == TokensOut((), "stop")
    assert [p.token_id for out in outs for p in out.pieces] == expected[:first]  # type: ignore[union-attr]


def test_ignore_eos_goes_on_past_the_end_token(cases: Cases) -> None:
    case = cases("llama")
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True)
    eos_ids = (case.expected["3"][5],)
    work = GenerateWork(case.prompts["3"], sampling, eos_ids=eos_ids)
    assert run_works(case.engine(), {"a": work}) == {"a": case.expected["3"]}


def test_resuming_a_finished_run_ends_at_once(cases: Cases) -> None:
    engine = cases("llama").engine()
    engine.submit("a", greedy((1, 2), 3, generated_ids=(4, 5, 6)))
    assert engine.step() == [("a", TokensOut((), "length"))]


def test_cancel_frees_the_row_and_leaves_the_others_alone(cases: Cases) -> None:
    case = cases("llama")
    engine = case.engine(block_size=4)
    for i, work in case.works().items():
        engine.submit(i, work)
    seen = [work_id for _ in range(3) for work_id, _ in engine.step()]
    assert set(seen) == set(case.prompts)
    for i in case.prompts:
        if i != "7":
            engine.cancel(i)
    rest: list[int] = []
    while engine.has_work:
        for work_id, out in engine.step():
            assert work_id == "7"
            rest += [piece.token_id for piece in out.pieces]  # type: ignore[union-attr]
    assert rest == case.expected["7"][3:]
    assert engine.stats().kv_used_blocks == 0


def test_interactive_rows_overtake_batch_rows_when_rows_are_short(cases: Cases) -> None:
    case = cases("llama")
    engine = case.engine(max_rows=2)
    for i in ("0", "1", "2"):
        engine.submit(i, greedy(case.prompts[i], MAX_TOKENS, priority=Priority.BATCH))
    engine.step()
    engine.submit("now", greedy(case.prompts["3"], 2, priority=Priority.INTERACTIVE))
    assert "now" in dict(engine.step())
    tokens: dict[str, int] = {}
    while engine.has_work:
        for work_id, out in engine.step():
            tokens[work_id] = tokens.get(work_id, 0) + len(out.pieces)  # type: ignore[union-attr]
    assert tokens["2"] == MAX_TOKENS


def test_logprobs_are_those_of_the_models_own_forward(cases: Cases) -> None:
    case = cases("qwen3")
    prompt = case.prompts["5"]
    sampling = SamplingParams(max_tokens=4, temperature=0, logprobs=5, repetition_penalty=1.3)
    engine = case.engine()
    engine.submit("a", GenerateWork(prompt, sampling))
    pieces = [piece for _ in range(4) for _, out in engine.step() for piece in out.pieces]  # type: ignore[union-attr]
    ids = [*prompt, *(piece.token_id for piece in pieces)]
    with torch.inference_mode():
        logits = case.model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1]
    logprobs = logits.log_softmax(dim=-1)
    for piece, row in zip(pieces, logprobs, strict=True):
        assert piece.logprob == pytest.approx(row[piece.token_id].item(), abs=1e-4)
        top = row.topk(5)
        assert [token for token, _ in piece.top] == top.indices.tolist()
        assert [value for _, value in piece.top] == pytest.approx(top.values.tolist(), abs=1e-4)


def sampled(prompt: tuple[int, ...], seed: int, **fields: Any) -> GenerateWork:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=30.0, top_p=0.95, seed=seed)
    return GenerateWork(prompt, sampling, **fields)


def test_sampled_tokens_do_not_depend_on_the_batch(cases: Cases) -> None:
    case = cases("llama")
    works = {i: sampled(prompt, seed=int(i)) for i, prompt in case.prompts.items()}
    together = run_works(case.engine(), works, per_step=3)
    engine = case.engine(block_size=4, max_step_tokens=7)
    for i, work in works.items():
        assert run_works(engine, {i: work}) == {i: together[i]}
    assert len({tuple(tokens) for tokens in together.values()}) == 16


def test_an_interrupted_sampled_run_resumes_with_the_same_tokens(cases: Cases) -> None:
    case = cases("gemma2")
    engine = case.engine()
    whole = run_works(engine, {"a": sampled(case.prompts["4"], seed=5)})["a"]
    for done in range(MAX_TOKENS):
        work = sampled(case.prompts["4"], seed=5, generated_ids=tuple(whole[:done]))
        assert run_works(engine, {"a": work}) == {"a": whole[done:]}


def test_choices_of_one_seed_differ(cases: Cases) -> None:
    case = cases("llama")
    works = {str(n): sampled(case.prompts["4"], seed=5, choice=n) for n in range(4)}
    got = run_works(case.engine(), works)
    assert len({tuple(tokens) for tokens in got.values()}) == 4


def test_a_row_whose_numbers_overflow_fails_alone_and_poisons_no_block(
    cases: Cases, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = cases("llama")
    engine = case.engine(block_size=4)
    runner = engine._runner
    assert isinstance(runner, PagedRunner)
    cache = runner._cache
    assert cache is not None
    engine.submit("bad", greedy((1, 2, 3), MAX_TOKENS))
    engine.step()
    blocks = list(engine._sequences["bad"].blocks)
    for stored in (*cache._keys.values(), *cache._values.values()):
        stored.view(cache.num_blocks, -1)[blocks] = torch.nan
    engine.submit("good", greedy(case.prompts["6"], MAX_TOKENS))
    outs = dict(engine.step())
    assert isinstance(outs["bad"], EngineError)
    good = [piece.token_id for piece in outs["good"].pieces]  # type: ignore[union-attr]
    while engine.has_work:
        good += [p.token_id for _, out in engine.step() for p in out.pieces]  # type: ignore[union-attr]
    assert good == case.expected["6"]
    assert run_works(engine, case.works()) == case.expected


@pytest.mark.parametrize(
    ("work", "error"),
    [
        (greedy((), 1), InvalidRequestError),
        (greedy((VOCAB,), 1), InvalidRequestError),
        (greedy((-1,), 1), InvalidRequestError),
        (greedy((1,), -1), InvalidRequestError),
        (greedy(range(CONTEXT), 1), ContextLengthError),
        (GenerateWork((1,), SamplingParams(temperature=float("nan"))), InvalidRequestError),
        (PipelineWork("classify", (1,)), UnsupportedTaskError),
    ],
)
def test_bad_work_is_refused_and_others_go_on(
    cases: Cases, work: GenerateWork, error: type[Exception]
) -> None:
    case = cases("llama")
    engine = case.engine()
    engine.submit("0", case.works()["0"])
    with pytest.raises(error):
        engine.submit("bad", work)
    tokens = [p.token_id for _ in range(MAX_TOKENS) for _, o in engine.step() for p in o.pieces]  # type: ignore[union-attr]
    assert tokens == case.expected["0"]


def test_a_directory_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="cannot be loaded"):
        NativeEngine().load(tmp_path, MANIFEST, "cpu", 1)


def test_a_network_that_keeps_no_keys_and_values_is_refused(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB}
    network = transformers.OpenAIGPTLMHeadModel(transformers.OpenAIGPTConfig(**sizes))
    network.save_pretrained(tmp_path)
    with pytest.raises(InvalidModelError, match="does not continue a sequence"):
        NativeEngine().load(tmp_path, MANIFEST, "cpu", 1)


def test_code_beside_a_model_is_never_run(tmp_path: Path) -> None:
    make_model(tmp_path, "llama")
    marker = tmp_path / "ran"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    NativeEngine().load(tmp_path, MANIFEST, "cpu", 1)
    config["model_type"] = "unheard-of"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModelError):
        NativeEngine().load(tmp_path, MANIFEST, "cpu", 1)
    assert not marker.exists()


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    make_model(tmp_path, "llama")
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(InvalidModelError):
        NativeEngine().load(tmp_path, MANIFEST, "cpu", 1)


def test_load_reports_weights_and_cache(cases: Cases) -> None:
    case = cases("llama")
    size = NativeEngine(block_size=4).load(case.directory, MANIFEST, "cpu", 1)
    weights = sum(parameter.nbytes for parameter in case.model.parameters())
    cache = 16 * CONTEXT * 3 * 2 * 2 * 8 * 4
    assert weights + cache <= size <= weights + cache + 4096


def test_unloading_frees_the_weights(cases: Cases) -> None:
    engine = cases("llama").engine()
    assert isinstance(engine._runner, PagedRunner)
    weights = weakref.ref(next(engine._runner._model.parameters()))
    engine.unload()
    assert weights() is None
