"""Each decoder that docs/models/decoders.md names is trained, saved and agrees with its engine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import make_job, make_recipe
from torch import nn
from transformers import AutoModelForCausalLM

from llmos.training import handler

PAGE = Path(__file__).parents[2] / "docs" / "models" / "decoders.md"
SIZES: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FED = SIZES | {"intermediate_size": 48}
GROUPED = FED | {"num_key_value_heads": 2}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2 | {"activation_function": "gelu"}),
    "gpt_bigcode": ("gpt_bigcode", GPT2 | {"activation_function": "gelu"}),
    "xglm": (
        "xglm",
        {"d_model": 32, "num_layers": 2, "attention_heads": 4, "ffn_dim": 48}
        | {"activation_function": "gelu"},
    ),
    "gpt_neox": ("gpt_neox", FED),
    "starcoder2": ("starcoder2", GROUPED),
    "stablelm": ("stablelm", GROUPED),
    "arcee": ("arcee", GROUPED | {"hidden_act": "gelu"}),
    "llama": ("llama", GROUPED),
    "llama, all heads": ("llama", GROUPED | {"num_key_value_heads": 4}),
    "llama, GeGLU": ("llama", GROUPED | {"hidden_act": "gelu"}),
    "llama, GLU": ("llama", GROUPED | {"hidden_act": "sigmoid"}),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_is_trained_and_published(name: str, tmp_path: Path) -> None:
    architecture, config = DECODERS[name]
    model = {"architecture": architecture, "config": config}
    context, _ = make_job(tmp_path, make_recipe("generate", model=model))
    (version,) = handler.run(context).artifacts
    manifest = version.manifest
    assert (manifest["model_type"], manifest["engine"]) == (architecture, "native")
    assert manifest["parity"]["rows"] > 0, "its engine says what the trainer says"
    network = AutoModelForCausalLM.from_pretrained(
        context.blobs.materialize(dict(version.files), tmp_path / "model")
    )
    kinds = {type(part) for part in network.modules()}
    is_layer_norm = any(issubclass(kind, nn.LayerNorm) for kind in kinds)
    assert is_layer_norm == (architecture not in ("llama", "arcee"))


def test_the_page_names_what_is_tested_and_nothing_else() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    table = [line for line in lines if line.startswith("| ") and "`architecture`" not in line]
    named = {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[-3])}
    assert named == {architecture for architecture, _ in DECODERS.values()}
