"""Networks whose linear layers oneDNN computes give what they gave before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from tests.unit.engines.families import FAMILIES, VOCAB, make_model
from torch import nn

from llmos.engines.onednn import OneDnnLinear, compute_by_onednn

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_the_logits_stay_the_same(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    assert name in FAMILIES
    directory = make_model(tmp_path, name)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()
    batches = [torch.randint(0, VOCAB, (1, count)) for count in (1, 5, 40)]
    expected = [model(ids).logits for ids in batches]
    compute_by_onednn(model)
    assert any(isinstance(module, OneDnnLinear) for module in model.modules())
    assert not any(type(module) is nn.Linear for module in model.modules())
    tolerance = 1e-4 if dtype is torch.float32 else 3e-2
    for ids, logits in zip(batches, expected, strict=True):
        assert (model(ids).logits - logits).abs().max() <= tolerance * logits.abs().max()


def test_a_head_that_is_the_embedding_is_not_held_twice(tmp_path: Path) -> None:
    directory = make_model(tmp_path, "llama", tie_word_embeddings=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory)
    compute_by_onednn(model)
    embedding = model.get_input_embeddings().weight
    assert isinstance(model.lm_head, OneDnnLinear)
    assert model.lm_head.weight.data_ptr() == embedding.data_ptr()


@torch.inference_mode()
def test_a_weight_that_is_looked_at_is_kept_as_it_was_from_then_on() -> None:
    linear, x = nn.Linear(70, 33), torch.randn(5, 70)
    ours = OneDnnLinear(linear, is_shared=False)
    before = ours(x)
    seen = ours.weight
    assert torch.equal(seen, linear.weight)
    assert ours.weight is seen
    assert torch.allclose(ours(x), before, atol=1e-5)
    assert ours.bias is linear.bias
