"""What a training takes: operations against a count by torch itself, peaks, memory, power."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel

from llmos.training import watching
from llmos.training.objectives import Batch
from llmos.training.peaks import peak_flops
from llmos.training.watching import Flops, Watch, watch

SIZES: dict[str, Any] = {"vocab_size": 120}
CONFIGS = {
    "gpt2": GPT2Config(n_layer=2, n_head=4, n_embd=64, n_positions=64, **SIZES),
    "llama": LlamaConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
        **SIZES,
    ),
}


def batch_of(rows: int = 3, length: int = 40) -> Batch:
    ids = torch.randint(0, 120, (rows, length), generator=torch.Generator().manual_seed(0))
    return Batch({"input_ids": ids, "use_cache": False}, ids)


def made(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation="eager")


def counted(model: PreTrainedModel, batch: Batch) -> int:
    """The operations of a step as torch counts them."""
    with FlopCounterMode(display=False) as counter:
        batch.loss_sum(model).backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops()


@pytest.mark.parametrize("name", CONFIGS)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model, batch = made(name), batch_of()
    assert Flops(model).of(batch) == pytest.approx(counted(model, batch), rel=0.03)


def test_weights_that_stay_take_less() -> None:
    model, batch = made("llama"), batch_of()
    whole = Flops(model).of(batch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.0" in name)  # so that all above it are gone back through
    assert Flops(model).of(batch) == pytest.approx(counted(model, batch), rel=0.05)
    assert Flops(model).of(batch) < 0.85 * whole


def test_peaks_are_found_by_the_names_that_drivers_tell() -> None:
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "tf32") == 156e12
    assert peak_flops("NVIDIA L40S", "float32") == 91.6e12
    assert peak_flops("Tesla T4", "bfloat16") is None, "it has no such units"
    assert peak_flops("NVIDIA A1000 Laptop", "float32") is None, "no other device's is taken"


def test_what_was_taken_is_told_as_a_rate() -> None:
    model, batch = made("gpt2"), batch_of()
    flops = Flops(model)
    one = Watch(flops, torch.device("cpu"), flops.of(batch) * 10, lambda: 90.0)
    for _ in range(4):
        one.count(batch)
    told = one.told(2.0)
    assert (told["mfu"], told["watts"]) == (pytest.approx(0.2), 45.0)
    assert told["memory_bytes"] > 50e6
    assert one.told(1.0)["mfu"] == 0.0, "each report is of its own time"
    assert set(Watch(flops, torch.device("cpu"), None, None).told(1.0)) == {"memory_bytes"}


def test_a_processor_s_peak_is_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    watch(made("gpt2"), tmp_path, lines.append, "float32")
    kept = json.loads((tmp_path / watching.PEAK_FILE).read_text())["flops"]
    assert kept > 1e8 and "GFLOP/s" in lines[0]
    monkeypatch.setattr(torch, "mm", None)
    watch(made("gpt2"), tmp_path, lines.append, "float32")
    assert len(lines) == 1


def test_a_processor_that_others_use_too_is_not_taken_for_a_slower_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = count()
    monkeypatch.setattr(watching.time, "process_time", lambda: next(ticks) * 0.01)
    watch(made("gpt2"), tmp_path, str, "float32")
    kept = json.loads((tmp_path / watching.PEAK_FILE).read_text())["flops"]
    assert kept == pytest.approx(2 * watching.PEAK_SIZE**3 / (0.01 / torch.get_num_threads()))


def test_bfloat16_is_measured_against_its_own_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.dtype] = []
    product = torch.mm

    def noted(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        asked.append(one.dtype)
        return product(one, other)

    monkeypatch.setattr(torch, "mm", noted)
    watch(made("gpt2"), tmp_path, str, "bfloat16")
    assert set(asked) == {torch.bfloat16}
    assert watching._units("bfloat16") == "bfloat16"
    assert watching._units("float32") == "float32", "unless products are rounded to tf32"
