from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llmos.models.recurrent import CELLS, RecurrentConfig
from llmos.models.registry import register

VOCAB = 50


@pytest.fixture(params=CELLS)
def config(request: pytest.FixtureRequest) -> RecurrentConfig:
    register()
    torch.manual_seed(0)
    return RecurrentConfig(cell=request.param, vocab_size=VOCAB, hidden_size=16)


def tokens(*shape: int) -> torch.Tensor:
    return torch.randint(1, VOCAB, shape, generator=torch.Generator().manual_seed(1))


def test_a_text_read_in_parts_is_read_as_the_whole(config: RecurrentConfig) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    ids = tokens(2, 9)
    first = model(ids[:, :5], use_cache=True)
    parts = [first.logits]
    for at in range(5, 9):
        step = model(ids[:, at : at + 1], past_key_values=first.past_key_values, use_cache=True)
        parts.append(step.logits)
    assert torch.allclose(torch.cat(parts, 1), model(ids).logits, atol=1e-6)
    assert first.past_key_values.get_seq_length() == 9
    assert torch.equal(model(ids, logits_to_keep=2).logits, model(ids).logits[:, -2:])


@pytest.mark.parametrize("real", [slice(3, 9), slice(0, 6)], ids=["left", "right"])
def test_padding_changes_nothing(config: RecurrentConfig, real: slice) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0] = 0
    mask[0, real] = 1
    padded = model(ids, attention_mask=mask).logits
    assert torch.allclose(padded[0, real], model(ids[:1, real]).logits[0], atol=1e-6)
    assert torch.allclose(padded[1], model(ids[1:]).logits[0], atol=1e-6)


def test_transformers_generates_with_it_rows_padded_or_not(config: RecurrentConfig) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, :3] = 0
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    together = model.generate(ids, attention_mask=mask, **options)[:, 9:]
    alone = [
        model.generate(ids[:1, 3:], **options)[0, 6:],
        model.generate(ids[1:], **options)[0, 9:],
    ]
    assert together.tolist() == [row.tolist() for row in alone]


def test_it_is_saved_and_loaded_with_its_head_tied(config: RecurrentConfig, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.cell == config.cell
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.allclose(loaded(tokens(1, 5)).logits, model(tokens(1, 5)).logits, atol=1e-6)


def test_it_learns_what_comes_next(config: RecurrentConfig) -> None:
    """The token that came five tokens ago decides: it has to be remembered."""
    config.dropout, config.hidden_size, config.num_hidden_layers, config.vocab_size = 0.0, 32, 1, 10
    model = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = torch.arange(1, 9)[:, None]
    ids = torch.cat([first, torch.full((8, 4), 9), first], dim=1)
    for _ in range(300):
        loss = model(ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert model.eval()(ids[:, :-1]).logits[:, -1].argmax(-1).tolist() == first[:, 0].tolist()


def test_the_gates_of_an_lstm_begin_open_to_the_past() -> None:
    model = AutoModelForCausalLM.from_config(RecurrentConfig(cell="lstm", hidden_size=8))
    bias = model.model.layers[0].cell.bias_ih_l0.detach()
    assert bias.view(4, 8).mean(1).tolist() == [0, 1, 0, 0]
    recurrence = model.model.layers[0].cell.weight_hh_l0.detach()[:8]
    assert torch.allclose(recurrence @ recurrence.T, torch.eye(8), atol=1e-5)


def test_a_classifier_reads_in_both_directions_and_no_padding(config: RecurrentConfig) -> None:
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config).eval()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[0, 6:] = 0
    logits = model(ids, attention_mask=mask).logits
    assert logits.shape == (2, 3)
    assert torch.allclose(logits[0], model(ids[:1, :6]).logits[0], atol=1e-6)
    turned = model(ids.flip(1)).logits
    assert not torch.allclose(turned[1], logits[1], atol=1e-3)


def test_a_classifier_begins_with_the_layers_that_were_saved(
    config: RecurrentConfig, tmp_path: Path
) -> None:
    config.num_labels = 3
    saved = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for layer in saved.layers:
            for weight in layer.parameters():
                weight.fill_(0.25)
    saved.save_pretrained(tmp_path)
    found = load_file(tmp_path / "model.safetensors")
    found.pop("layers.0.cell.weight_ih_l0")
    save_file(found, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for name, weight in loaded.layers.named_parameters():
        assert (name == "0.cell.weight_ih_l0") != bool((weight == 0.25).all())


def test_a_cell_that_there_is_not_is_refused() -> None:
    with pytest.raises(
        StrictDataclassClassValidationError, match="cell must be one of rnn, lstm, gru, not 'lstmm'"
    ):
        RecurrentConfig(cell="lstmm")
