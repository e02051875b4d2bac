from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from llmos.models.ngram import MAX_ORDER, NgramConfig, NgramForCausalLM
from llmos.models.registry import register
from llmos.training.counting import count, model_of

VOCAB = 12


def counted(text: list[int], order: int, vocab_size: int = VOCAB) -> NgramForCausalLM:
    register()
    counts = count(np.array(text), order, vocab_size, lambda: None)
    return model_of(counts, NgramConfig(order=order, vocab_size=vocab_size)).eval()


def text(length: int, seed: int = 0) -> list[int]:
    """Words that come in habits, of all but the last two of the vocabulary."""
    random = np.random.default_rng(seed)
    return [int(x) for x in np.cumsum(random.integers(0, 3, length)) % (VOCAB - 2)]


@settings(max_examples=60, deadline=None)
@given(
    learned=st.lists(st.integers(0, VOCAB - 3), min_size=1, max_size=60),
    asked=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12),
    order=st.integers(1, MAX_ORDER),
)
def test_what_may_come_next_sums_to_one_whatever_came_before(
    learned: list[int], asked: list[int], order: int
) -> None:
    probabilities = counted(learned, order)(torch.tensor([asked])).logits.exp()
    assert torch.allclose(probabilities.sum(-1), torch.ones(1, len(asked)), atol=1e-5)
    assert bool((probabilities > 0).all()), "also what was never seen can come"


@pytest.mark.parametrize("order", range(1, MAX_ORDER + 1))
def test_a_text_read_in_parts_is_read_as_the_whole(order: int) -> None:
    model = counted(text(500), order)
    ids = torch.tensor([text(9, 1), text(9, 2)])
    first = model(ids[:, :4], use_cache=True)
    parts = [first.logits]
    for at in range(4, 9):
        step = model(ids[:, at : at + 1], past_key_values=first.past_key_values, use_cache=True)
        parts.append(step.logits)
    assert torch.equal(torch.cat(parts, 1), model(ids).logits)
    assert torch.equal(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:])


@pytest.mark.parametrize("real", [slice(3, 9), slice(0, 6)], ids=["left", "right"])
def test_padding_changes_nothing(real: slice) -> None:
    model = counted(text(500), 4)
    ids, mask = torch.tensor([text(9, 1), text(9, 2)]), torch.ones(2, 9, dtype=torch.long)
    mask[0] = 0
    mask[0, real] = 1
    padded = model(ids, attention_mask=mask).logits
    assert torch.equal(padded[0, real], model(ids[:1, real]).logits[0])
    assert torch.equal(padded[1], model(ids[1:]).logits[0])


def test_transformers_generates_with_it_rows_padded_or_not() -> None:
    model = counted(text(500), 4)
    ids, mask = torch.tensor([text(9, 1), text(9, 2)]), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    for options in ({"num_beams": 1}, {"num_beams": 3}):
        options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **options}
        together = model.generate(ids, attention_mask=mask, **options)[:, 9:]
        alone = [
            model.generate(ids[:1, 3:], attention_mask=mask[:1, 3:], **options)[0, 6:],
            model.generate(ids[1:], attention_mask=mask[1:], **options)[0, 9:],
        ]
        assert together.tolist() == [row.tolist() for row in alone]


def test_its_tables_stay_in_the_pages_of_the_file(tmp_path: Path) -> None:
    model = counted(text(5000), 5)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    ids = torch.tensor([text(20, 3)])
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    mapped = [
        (int(begin, 16), int(end, 16))
        for begin, end in re.findall(
            r"^(\w+)-(\w+) .*model\.safetensors$", Path("/proc/self/maps").read_text(), re.M
        )
    ]
    for name, table in loaded.named_buffers():
        at = table.data_ptr()
        assert any(begin <= at < end for begin, end in mapped), f"{name} was copied"


def test_sizes_that_do_not_fit_are_refused() -> None:
    for wrong in ({"order": 0}, {"order": 7}, {"order": 3, "entries": [1]}):
        with pytest.raises(Exception, match=r"order must be|entries must be"):
            NgramConfig(**wrong)
