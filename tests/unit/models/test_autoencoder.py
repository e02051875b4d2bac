from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from transformers import AutoModel, AutoModelForCausalLM, DynamicCache, PreTrainedModel

from llmos.engines.embedding import POOLINGS, pooled
from llmos.models.autoencoder import AutoencoderConfig, VaeConfig
from llmos.models.codes import LEVELS
from llmos.models.registry import register
from llmos.training.recipe import Recipe

VOCAB, FIRST_LEVEL, CODE, LATENT, WORDS = 300, 2, 1, 5, 258
KINDS = (AutoencoderConfig, VaeConfig)
CELLS = ("lstm", "gru", "rnn", "mlp")


def made(kind: type[AutoencoderConfig], cell: str = "gru") -> Any:
    register()
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {"vocab_size": VOCAB, "hidden_size": 16, "latent_size": LATENT, "max_text_tokens": 12}
    return AutoModelForCausalLM.from_config(kind(cell=cell, **sizes, **ids)).eval()


def words(*shape: int) -> torch.Tensor:
    return torch.randint(WORDS, VOCAB, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_asked_it_does_what_it_was_trained_to(kind: type[AutoencoderConfig], cell: str) -> None:
    """Goes on from a text with its code, and from that with what the writer makes of it."""
    model = made(kind, cell)
    text = words(1, 6)
    mean, _ = model.encode(text, torch.ones_like(text))
    levels = model.quantised(mean)
    (written,) = model.write(model.values(levels), 12)
    answer = model.generate(text, do_sample=False, max_new_tokens=1 + LATENT + len(written))
    code = [CODE, *(levels[0] + FIRST_LEVEL).tolist()]
    assert answer[0, 6:].tolist() == [*code, *written]
    logits = model(answer).logits[:, 6 + LATENT :][:, :12]
    trained = model.decode(model.values(levels), torch.tensor([written], dtype=torch.long))
    assert torch.allclose(logits, trained[:, :12], atol=1e-5)


@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_a_text_ends_where_it_has_no_more_room(cell: str) -> None:
    model = made(AutoencoderConfig, cell)
    code = torch.full((1, LATENT), FIRST_LEVEL + 7)
    ids = torch.cat([code, words(1, 12)], 1)
    assert int(model(ids).logits[0, -1].argmax()) == 0
    assert float(model(ids).logits[0, -1].softmax(0)[0]) == pytest.approx(1.0)
    assert float(model(ids[:, :-1]).logits[0, -1].softmax(0)[0]) < 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", ["lstm", "mlp"])
def test_what_is_read_in_parts_is_read_as_the_whole(
    kind: type[AutoencoderConfig], cell: str
) -> None:
    model = made(kind, cell)
    code = torch.full((1, LATENT), FIRST_LEVEL + 7)
    ids = torch.cat([words(1, 4), torch.tensor([[CODE]]), code, words(1, 4)], 1)
    whole = model(ids).logits
    for cut in range(1, ids.shape[1]):
        cache = DynamicCache(config=model.config)
        first = model(ids[:, :cut], past_key_values=cache, use_cache=True).logits
        last = model(ids[:, cut:], past_key_values=cache, use_cache=True).logits
        assert torch.allclose(torch.cat([first, last], 1), whole, atol=1e-5)


def test_texts_of_any_length_are_asked_together() -> None:
    model = made(AutoencoderConfig, "lstm")
    long, short = words(1, 6), words(1, 3)
    padded = torch.cat([long, torch.cat([torch.zeros_like(short), short], 1)])
    mask = torch.ones_like(padded)
    mask[1, :3] = 0
    options = {"do_sample": False, "max_new_tokens": LATENT + 5}
    both = model.generate(padded, attention_mask=mask, **options)[:, 6:]
    alone = [model.generate(one, **options)[0, one.shape[1] :] for one in (long, short)]
    assert [row.tolist() for row in both] == [row.tolist() for row in alone]


def test_padding_changes_no_vector() -> None:
    for cell in CELLS:
        model = made(AutoencoderConfig, cell)
        ids, mask = words(2, 6), torch.ones(2, 6, dtype=torch.long)
        mask[0, 4:] = 0
        vectors, _ = model.encode(ids, mask)
        alone, _ = model.encode(ids[:1, :4], mask[:1, :4])
        assert torch.allclose(vectors[:1], alone, atol=1e-6)


@pytest.mark.parametrize("start", [0, CODE])
@torch.no_grad()
def test_from_nothing_a_vector_is_drawn_from_the_prior(start: int) -> None:
    model = made(VaeConfig)
    chances = model(torch.tensor([[start]])).logits[0, -1].softmax(0)
    values = model.values(torch.arange(LEVELS))
    levels = chances[FIRST_LEVEL : FIRST_LEVEL + LEVELS]
    assert float(levels.sum()) == pytest.approx(1.0)
    assert float((levels * values).sum()) == pytest.approx(0.0, abs=1e-4)
    assert float((levels * values**2).sum()) == pytest.approx(1.0, abs=1e-2)
    drawn = model.generate(torch.tensor([[start]]), do_sample=True, max_new_tokens=LATENT + 1)
    assert all(FIRST_LEVEL <= token < FIRST_LEVEL + LEVELS for token in drawn[0, 1 : 1 + LATENT])
    assert drawn[0, 1 + LATENT] >= WORDS or drawn[0, 1 + LATENT] == 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_level_is_the_nearest_to_its_number(kind: type[AutoencoderConfig]) -> None:
    model: Any = made(kind)
    levels = torch.arange(LEVELS)
    assert torch.equal(model.quantised(model.values(levels)), levels)
    numbers = torch.linspace(-model.reach, model.reach, 999)
    off = (model.values(model.quantised(numbers)) - numbers).abs()
    assert float(off.max()) <= model.reach / LEVELS + 1e-6


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    model: PreTrainedModel = made(VaeConfig, "mlp")
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.cat([words(1, 3), torch.tensor([[CODE]])], 1)
    assert loaded.config.max_position_embeddings == 2 * 12 + LATENT + 2
    assert torch.allclose(loaded(ids).logits, model(ids).logits, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
@torch.no_grad()
def test_the_vectors_of_texts_are_embeddings(
    kind: type[AutoencoderConfig], cell: str, tmp_path: Path
) -> None:
    model = made(kind, cell)
    model.save_pretrained(tmp_path)
    reader = AutoModel.from_pretrained(tmp_path).eval()
    ids, mask = words(2, 6), torch.ones(2, 6, dtype=torch.long)
    mask[0, 4:] = 0
    vectors, _ = model.encode(ids, mask)
    hidden = reader(input_ids=ids, attention_mask=mask).last_hidden_state
    assert hidden.shape == (2, 6, LATENT)
    for pooling in POOLINGS:
        assert torch.allclose(pooled(hidden, [4, 6], pooling), vectors, atol=1e-6)
    alone = reader(input_ids=ids[:1, :4]).last_hidden_state
    assert torch.allclose(alone[0, -1], vectors[0], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"cell": "cnn"}, "cell must be one of rnn, lstm, gru, mlp, not 'cnn'"),
        ({"latent_size": 0}, "latent_size must be 1 to 256, not 0"),
        ({"latent_size": 257}, "latent_size must be 1 to 256, not 257"),
        ({"max_text_tokens": 257}, r"max_tokens\) must be 1 to 256, not 257"),
        ({"num_hidden_layers": 2}, "num_hidden_layers must be 1"),
    ],
)
def test_sizes_that_are_none_are_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(StrictDataclassClassValidationError, match=said):
        AutoencoderConfig(**values)


def test_a_recipe_that_says_nothing_of_lengths_makes_a_network() -> None:
    longest = Recipe.model_fields["max_tokens"].default
    assert AutoencoderConfig(max_text_tokens=longest).max_text_tokens == longest
