from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForSequenceClassification

from llmos.models.convolutional import ConvolutionalConfig
from llmos.models.registry import register


def made(**values: object) -> torch.nn.Module:
    register()
    torch.manual_seed(0)
    config = ConvolutionalConfig(
        vocab_size=50, hidden_size=8, num_filters=6, num_labels=3, **values
    )
    return AutoModelForSequenceClassification.from_config(config).eval()


@pytest.mark.parametrize("length", [1, 2, 7, 12])
def test_padding_changes_nothing_however_short_the_text(length: int) -> None:
    model = made()
    ids = torch.randint(1, 50, (2, 12), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, length:] = 0
    logits = model(input_ids=ids, attention_mask=mask).logits
    assert torch.allclose(logits[0], model(input_ids=ids[:1, :length]).logits[0], atol=1e-6)
    assert torch.allclose(logits[1], model(input_ids=ids[1:]).logits[0], atol=1e-6)


def test_a_text_alone_needs_no_mask() -> None:
    model = made(widths=[1, 2, 5])
    with torch.no_grad():
        for one in model.filters:
            one.bias.fill_(3.0)
    ids = torch.tensor([[4, 7, 9]])
    masked = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.equal(model(input_ids=ids).logits, masked)


def test_a_phrase_counts_wherever_it_stands() -> None:
    model = made(widths=[2])
    phrase, filling = [7, 8], [3] * 6
    front = model(input_ids=torch.tensor([filling[:1] + phrase + filling[:5]])).logits
    back = model(input_ids=torch.tensor([filling[:5] + phrase + filling[:1]])).logits
    assert torch.allclose(front, back, atol=1e-6)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model = made(widths=[1, 4])
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[1, 2, 3]])
    assert list(loaded.config.widths) == [1, 4]
    assert torch.equal(loaded(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("widths", [[], [3, 0]])
def test_widths_that_are_none_are_refused(widths: list[int]) -> None:
    with pytest.raises(
        StrictDataclassClassValidationError,
        match="widths must be one or more numbers of tokens above 0",
    ):
        ConvolutionalConfig(widths=widths)
