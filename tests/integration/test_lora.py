"""LoRA adapters in the native engine against peft: mixed in one batch, loaded while serving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.families import (
    MANIFEST,
    generate,
    greedy,
    load_oracle,
    make_model,
    prompts,
    run_works,
)
from tests.unit.engines.lora import GPT2, LLAMA, load_adapted, save_adapter

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.lora import read_adapter
from llmos.engines.native.probe import make_runner
from llmos.engines.native.runner import PagedRunner, RowwiseRunner
from llmos.errors import EngineError, InvalidModelError
from llmos.types import GenerateWork, TokensOut

MAX_TOKENS = 8
TARGETS: dict[str, list[str]] = {
    "llama": LLAMA,
    "gpt2": GPT2,
    "bloom": ["query_key_value", "dense_4h_to_h"],
}


@dataclass(frozen=True)
class Case:
    """A model on disk and in transformers, and where to put its adapters."""

    family: str
    directory: Path
    model: Any

    def adapter(self, name: str, seed: int = 0, **config: Any) -> Path:
        wanted = {"target_modules": TARGETS[self.family], **config}
        return save_adapter(self.directory / name, self.model, seed, **wanted)

    def engine(self, **options: Any) -> NativeEngine:
        engine = NativeEngine(**options)
        engine.load(self.directory, MANIFEST, "cpu", 1)
        return engine


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    made: dict[str, Case] = {}

    def case(family: str) -> Case:
        if family not in made:
            directory = make_model(tmp_path_factory.mktemp(family), family)
            made[family] = Case(family, directory, load_oracle(directory))
        return made[family]

    return case


Cases = Callable[[str], Case]


def run_all(runner: Any, requests: list[tuple[tuple[int, ...], str]]) -> torch.Tensor:
    """The logits after every token of prompts, each with its adapter, computed in one step."""
    runner.allocate(8 * len(requests), 8)
    chunks = [
        RowChunk(str(i), ids, 0, range(8 * i, 8 * i + 8), len(ids), adapter)
        for i, (ids, adapter) in enumerate(requests)
    ]
    logits: torch.Tensor = runner.run(chunks)
    for chunk in chunks:
        runner.forget(chunk.id, chunk.blocks, clear=False)
    return logits


@torch.inference_mode()
def oracle(model: Any, ids: tuple[int, ...]) -> torch.Tensor:
    logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_a_mixed_batch_gives_each_row_its_own_adapters_tokens(cases: Cases, family: str) -> None:
    case = cases(family)
    paths = {name: case.adapter(name, seed) for seed, name in enumerate("ab", 1)}
    models = {"": case.model, **{name: load_adapted(case.model, paths[name]) for name in paths}}
    engine = case.engine()
    for name, path in paths.items():
        assert engine.load_adapter(name, path) > 0
    works, expected = {}, {}
    for i, prompt in enumerate(prompts(9)):
        name = ("", "a", "b")[i % 3]
        works[f"{i}{name}"] = greedy(prompt, MAX_TOKENS, adapter=name)
        expected[f"{i}{name}"] = generate(models[name], prompt, MAX_TOKENS)
    assert len({tuple(tokens) for tokens in expected.values()}) == len(expected)
    assert run_works(engine, works, per_step=2) == expected
    assert run_works(case.engine(), {k: w for k, w in works.items() if not w.adapter}) == {
        key: expected[key] for key, work in works.items() if not work.adapter
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 8, "lora_alpha": 3},
    "all-linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.layers\.[02]\.self_attn\.(k|o)_proj"},
    "one layer": {"layers_to_transform": [1]},
    "patterns": {
        "rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.down_proj": 6},
        "alpha_pattern": {"v_proj": 1},
    },
    "head": {"target_modules": ["lm_head", "o_proj"]},
    "excluded": {"exclude_modules": ["model.layers.1.self_attn.q_proj"]},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_kind_of_lora_computes_what_peft_computes(cases: Cases, name: str) -> None:
    case = cases("llama")
    path = case.adapter(name, 5, **VARIANTS[name])
    adapted = load_adapted(case.model, path)
    runner = make_runner(load_oracle(case.directory))
    assert isinstance(runner, PagedRunner)
    runner.load_adapter("x", path)
    ids, others = prompts(7)[4:6]
    logits = run_all(runner, [(others, ""), (ids, "x"), (others, "x")])
    wanted = [oracle(case.model, others), oracle(adapted, ids), oracle(adapted, others)]
    torch.testing.assert_close(logits, torch.cat(wanted), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(wanted[0], wanted[2], atol=1e-2)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_rows_without_an_adapter_are_bit_identical_whatever_is_loaded(
    cases: Cases, family: str
) -> None:
    case = cases(family)
    runner = make_runner(load_oracle(case.directory))
    assert isinstance(runner, RowwiseRunner if family == "bloom" else PagedRunner)
    first, second = prompts(5)[3:]
    before = run_all(runner, [(first, ""), (second, "")])
    runner.load_adapter("x", case.adapter("x", 3))
    assert torch.equal(run_all(runner, [(first, ""), (second, "")]), before)
    mixed = run_all(runner, [(first, ""), (second, "x")])
    assert torch.equal(mixed[: len(first)], before[: len(first)])
    assert not torch.allclose(mixed[len(first) :], before[len(first) :], atol=1e-2)
    runner.drop_adapter("x")
    assert torch.equal(run_all(runner, [(first, ""), (second, "")]), before)
    assert not any(module._forward_hooks for module in runner._model.modules())


def test_adapters_come_and_go_while_others_are_served(cases: Cases) -> None:
    case = cases("llama")
    paths = {name: case.adapter(name, seed) for seed, name in enumerate("ab", 1)}
    prompt = prompts(4)[3]
    engine = case.engine()
    engine.submit("base", greedy(prompt, 20))
    tokens: dict[str, list[int]] = {"base": [], "a": [], "b": []}

    def steps(count: int) -> None:
        for _ in range(count):
            for work_id, out in engine.step():
                assert isinstance(out, TokensOut)
                tokens[work_id] += [piece.token_id for piece in out.pieces]

    steps(3)
    engine.load_adapter("a", paths["a"])
    engine.submit("a", greedy(prompt, 4, adapter="a"))
    steps(5)
    engine.drop_adapter("a")
    with pytest.raises(EngineError, match="adapter is not loaded"):
        engine.submit("a2", greedy(prompt, 4, adapter="a"))
    engine.load_adapter("b", paths["b"])
    engine.submit("b", greedy(prompt, 4, adapter="b"))
    steps(20)
    assert not engine.has_work
    assert tokens["base"] == generate(case.model, prompt, 20)
    for name, path in paths.items():
        assert tokens[name] == generate(load_adapted(case.model, path), prompt, 4)


def test_a_cached_prefix_is_not_shared_between_adapters(cases: Cases) -> None:
    case = cases("llama")
    path = case.adapter("prefix", 9)
    engine = case.engine(block_size=4)
    engine.load_adapter("x", path)
    prompt = prompts(5, longest=40)[4]
    assert len(prompt) > 8
    models = {"": case.model, "x": load_adapted(case.model, path)}
    for name in ("", "x", "", "x"):
        work: GenerateWork = greedy(prompt, 4, adapter=name, cache_salt=b"s")
        assert run_works(engine, {"w": work})["w"] == generate(models[name], prompt, 4)


def test_an_adapter_is_plain_data(cases: Cases) -> None:
    adapter = read_adapter(cases("llama").adapter("data", 1, rank_pattern={"v_proj": 2}))
    assert adapter.rank == 4
    assert len(adapter.modules) == 3 * len(LLAMA)
    low = adapter.modules["model.layers.0.self_attn.v_proj"]
    assert (low.a.shape, low.b.shape) == ((2, 32), (16, 2))
    assert low.a.dtype == low.b.dtype == torch.float32
    assert low.scaling == 8 / 2
    assert adapter.num_bytes == 4 * sum(m.a.numel() + m.b.numel() for m in adapter.modules.values())


def test_an_adapter_of_another_model_names_the_difference(cases: Cases, tmp_path: Path) -> None:
    engine = cases("gpt2").engine()
    with pytest.raises(
        InvalidModelError, match=r"GPT2LMHeadModel: it has no linear module model\."
    ):
        engine.load_adapter("x", cases("llama").adapter("other"))
    wide = load_oracle(make_model(tmp_path / "wide", "llama", intermediate_size=96))
    path = save_adapter(tmp_path / "a", wide, target_modules=["down_proj"])
    with pytest.raises(InvalidModelError, match=r"takes 48 numbers and gives 32, .* 96 and 32"):
        cases("llama").engine().load_adapter("x", path)
