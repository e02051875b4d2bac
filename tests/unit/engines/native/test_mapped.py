"""Models in the pages of their files compute what they compute loaded as float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.unit.engines.decoders import LLAMA_LIKE, logits_of, make_decoder, random_ids
from transformers import AutoModelForCausalLM

from llmos.engines.loading import load_pretrained
from llmos.engines.native.mapped import open_mapped
from llmos.errors import InvalidModelError


@pytest.mark.parametrize("kind", [*LLAMA_LIKE, "gpt2"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_logits_are_bit_for_bit_those_of_the_float32_model(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    path = make_decoder(tmp_path / "model", kind, dtype)
    mapped = open_mapped(path)
    whole = load_pretrained(AutoModelForCausalLM, path, {}, "cpu", attn_implementation="eager")
    ids = random_ids(24)
    assert torch.equal(logits_of(mapped, ids), logits_of(whole, ids))
    assert {parameter.dtype for parameter in mapped.parameters()} == {dtype}


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError):
        open_mapped(tmp_path)
