from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModelForSeq2SeqLM

from llmos.models.recurrent import CELLS
from llmos.models.recurrent_seq2seq import RecurrentSeq2SeqConfig
from llmos.models.registry import register

VOCAB = 30


@pytest.fixture(params=CELLS)
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    register()
    torch.manual_seed(0)
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
    config = RecurrentSeq2SeqConfig(cell=request.param, vocab_size=VOCAB, hidden_size=16, **ids)
    return AutoModelForSeq2SeqLM.from_config(config).eval()


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(2, VOCAB, shape, generator=torch.Generator().manual_seed(1))


def test_padding_of_the_source_changes_nothing(model: torch.nn.Module) -> None:
    source, target, mask = tokens(2, 7), tokens(2, 5), torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits
    assert logits.shape == (2, 5, VOCAB)
    alone = model(input_ids=source[:1, :4], decoder_input_ids=target[:1]).logits
    assert torch.allclose(logits[:1], alone, atol=1e-6)


def test_the_target_is_read_from_left_to_right_and_the_source_as_a_whole(
    model: torch.nn.Module,
) -> None:
    source, target = tokens(1, 7), tokens(1, 5)
    logits = model(input_ids=source, decoder_input_ids=target).logits
    later = target.clone()
    later[0, 3] = 2 if later[0, 3] != 2 else 3
    changed = model(input_ids=source, decoder_input_ids=later).logits
    assert torch.allclose(changed[:, :3], logits[:, :3], atol=1e-6)
    assert not torch.allclose(changed[:, 3], logits[:, 3], atol=1e-4)
    other = source.clone()
    other[0, 6] = 2 if other[0, 6] != 2 else 3
    assert not torch.allclose(
        model(input_ids=other, decoder_input_ids=target).logits[:, 0], logits[:, 0], atol=1e-5
    )


@pytest.mark.parametrize("num_beams", [1, 4])
def test_transformers_searches_with_it_cached_or_not_batched_or_not(
    model: torch.nn.Module, num_beams: int
) -> None:
    source, mask = tokens(2, 7), torch.ones(2, 7, dtype=torch.long)
    mask[0, 4:] = 0
    options = {"max_new_tokens": 6, "num_beams": num_beams, "do_sample": False}
    together = model.generate(source, attention_mask=mask, **options)
    again = model.generate(source, attention_mask=mask, use_cache=False, **options)
    assert torch.equal(together, again)
    alone = model.generate(source[:1, :4], **options)
    assert together[0, : alone.shape[1]].tolist() == alone[0].tolist()


def test_it_is_saved_and_loaded_with_one_matrix_for_all_words(
    model: torch.nn.Module, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert loaded.lm_head.weight is loaded.shared.weight is loaded.encoder.embed_tokens.weight
    texts = {"input_ids": tokens(2, 7), "decoder_input_ids": tokens(2, 5)}
    assert torch.allclose(loaded(**texts).logits, model(**texts).logits, atol=1e-6)


def test_it_learns_to_turn_a_text_around(model: torch.nn.Module) -> None:
    """Which takes looking back at the source."""
    model.train()
    model.dropout.p = model.encoder.dropout.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    source = tokens(16, 4)
    target = source.flip(1)
    given = torch.cat([torch.zeros(16, 1, dtype=torch.long), target[:, :-1]], 1)
    for _ in range(200):
        model(input_ids=source, decoder_input_ids=given, labels=target).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    written = model.eval().generate(source, max_new_tokens=4, do_sample=False)[:, 1:5]
    assert (written == target).float().mean() > 0.95


def test_a_size_that_two_directions_cannot_share_is_refused() -> None:
    with pytest.raises(StrictDataclassClassValidationError, match="must be even, not 7"):
        RecurrentSeq2SeqConfig(hidden_size=7)
