"""LoRA in the extension against the same adapter on the restored torch model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.engines.decoders import (
    chunk,
    error,
    fused,
    logits_of,
    make_quantized,
    random_ids,
    restored,
)
from tests.unit.engines.lora import load_adapted, save_adapter

from llmos.errors import InvalidModelError

IDS = random_ids(20)
EVERYWHERE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CALM = ["v_proj", "o_proj", "gate_proj", "up_proj"]
"""Without large random changes of queries and keys at once: attention to single tokens, which of
them by a hair, would be decided by the rounding."""
FUSED = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
CASES: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": EVERYWHERE}),
    ("llama", {"target_modules": ["v_proj"], "r": 8, "use_rslora": True}),
    ("llama", {"target_modules": ["up_proj"]}),
    ("qwen2", {"target_modules": CALM, "layers_to_transform": [1]}),
    ("qwen3", {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"q_proj": 2}}),
    ("gemma", {"target_modules": EVERYWHERE}),
    ("phi3", {"target_modules": FUSED}),
]


@pytest.mark.parametrize(("kind", "config"), CASES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_an_adapter_computes_what_it_does_over_the_same_weights_in_torch(
    tmp_path: Path, kind: str, config: dict[str, Any], dtype: str
) -> None:
    path, quantized = make_quantized(tmp_path, kind, dtype)
    base = restored(quantized, path)
    adapter = save_adapter(tmp_path / "adapter", base, **config)
    runner = fused(quantized)
    assert runner.load_adapter("x", adapter) > 0
    ours = runner.run([chunk("a", IDS, 0, [0, 1], 20, "x")])
    theirs = logits_of(load_adapted(base, adapter), IDS)
    assert error(ours, theirs) < 0.05
    assert error(logits_of(base, IDS), theirs) > 0.15


def test_rows_of_a_batch_have_each_its_own_adapter(tmp_path: Path) -> None:
    path, quantized = make_quantized(tmp_path)
    base = restored(quantized, path)
    runner = fused(quantized)
    alone = {"": runner.run([chunk("a", IDS, 0, [0, 1], 20)])}
    for seed, name in enumerate("xy", 1):
        target = save_adapter(tmp_path / name, base, seed, target_modules=EVERYWHERE)
        runner.load_adapter(name, target)
        alone[name] = runner.run([chunk("a", IDS, 0, [0, 1], 20, name)])
    names = ["x", "", "y", "x", ""]
    chunks = [chunk(str(i), IDS, 0, [2 * i, 2 * i + 1], 20, n) for i, n in enumerate(names)]
    together = runner.run(chunks).split(20)
    assert all(torch.equal(got, alone[n]) for got, n in zip(together, names, strict=True))
    assert not torch.equal(alone["x"], alone["y"])


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    path, quantized = make_quantized(tmp_path / "a")
    other_path, other = make_quantized(tmp_path / "b", intermediate_size=208)
    foreign = save_adapter(
        tmp_path / "foreign", restored(other, other_path), target_modules=["down_proj"]
    )
    head = save_adapter(
        tmp_path / "head", restored(quantized, path), target_modules=["lm_head", "q_proj"]
    )
    runner = fused(quantized)
    for adapter in (foreign, head):
        with pytest.raises(InvalidModelError):
            runner.load_adapter("x", adapter)
