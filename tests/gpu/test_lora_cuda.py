"""LoRA adapters on a CUDA device: a mixed batch gives the tokens that peft gives there."""

from __future__ import annotations

from pathlib import Path

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
from tests.unit.engines.lora import load_adapted, save_adapter

from llmos.engines.native.engine import NativeEngine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DEVICE = "cuda:0"
MAX_TOKENS = 8


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_a_mixed_batch_equals_peft(tmp_path: Path, family: str) -> None:
    directory = make_model(tmp_path / "base", family)
    models = {"": load_oracle(directory)}
    engine = NativeEngine()
    engine.load(directory, MANIFEST, DEVICE, 2)
    for seed, name in enumerate("ab", 1):
        path = save_adapter(tmp_path / name, models[""], seed, target_modules="all-linear")
        models[name] = load_adapted(models[""], path).to(DEVICE)
        before = torch.cuda.memory_allocated()
        size = engine.load_adapter(name, path)
        assert torch.cuda.memory_allocated() - before >= size
    models[""].to(DEVICE)
    works, expected = {}, {}
    for i, prompt in enumerate(prompts(9)):
        name = ("", "a", "b")[i % 3]
        works[str(i)] = greedy(prompt, MAX_TOKENS, adapter=name)
        expected[str(i)] = generate(models[name], prompt, MAX_TOKENS)
    assert run_works(engine, works, per_step=2) == expected
    engine.drop_adapter("a")
    assert run_works(engine, {"0": works["0"], "2": works["2"]}) == {
        "0": expected["0"],
        "2": expected["2"],
    }
