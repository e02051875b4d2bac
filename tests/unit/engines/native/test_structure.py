"""Llama-like decoders are known by what they compute; others are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.engines.decoders import LLAMA_LIKE, OTHERS, WINDOW, make_decoder
from transformers import AutoModelForCausalLM

from llmos.engines.loading import load_pretrained
from llmos.engines.native.mapped import open_mapped
from llmos.engines.native.structure import recognize


@pytest.mark.parametrize("kind", LLAMA_LIKE)
def test_a_llama_like_decoder_is_recognised_in_whatever_type_it_is_stored(
    tmp_path: Path, kind: str
) -> None:
    path = make_decoder(tmp_path / "model", kind, torch.bfloat16)
    model = load_pretrained(AutoModelForCausalLM, path, {}, "cpu", attn_implementation="eager")
    found = recognize(model)
    assert found is not None
    assert found == recognize(open_mapped(path))
    assert (found.heads, found.kv_heads, found.head_dim) == (4, 2, 32)
    assert (found.intermediate, found.vocab, len(found.layers)) == (176, 333, 3)
    assert found.is_tied == (kind.startswith("gemma") or kind == "qwen2 tied")
    windows = [layer.window for layer in found.layers]
    wanted = {"mistral": [WINDOW] * 3, "gemma2": [WINDOW, 0, WINDOW], "gemma3": [WINDOW] * 3}
    assert windows == wanted.get(kind, [0, 0, 0])
    assert found.embedding_scale == pytest.approx(96**0.5 if kind.startswith("gemma") else 1)


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_built_otherwise_is_not_taken_for_one(tmp_path: Path, kind: str) -> None:
    path = make_decoder(tmp_path / "model", kind)
    assert recognize(open_mapped(path)) is None


def test_layers_of_different_sizes_are_not_taken_for_one(tmp_path: Path) -> None:
    model = open_mapped(make_decoder(tmp_path / "model"))
    model.model.layers[1].mlp.down_proj = torch.nn.Linear(160, 96)
    assert recognize(model) is None


def test_looking_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    path = make_decoder(tmp_path / "model", "gemma2")
    model = load_pretrained(AutoModelForCausalLM, path, {}, "cpu", attn_implementation="eager")
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        before = model(ids).logits
        recognize(model)
        assert torch.equal(model(ids).logits, before)
