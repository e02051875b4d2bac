from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.training.tiny import BERT, LLAMA, MARIAN, T5, make_recipe
from transformers import GPT2Config, GPT2ForSequenceClassification

from llmos.data.tokenizers import specials_of, train_character
from llmos.errors import RecipeError
from llmos.training.network_checks import looks_ahead, see_to_padding
from llmos.training.networks import build
from llmos.training.recipe import parse

SPECIALS = specials_of("generate")
TOKENIZER = train_character(["hello world"], SPECIALS)


def built(architecture: str, config: dict[str, Any], task: str = "generate", **changes: Any) -> Any:
    torch.manual_seed(0)
    its = make_recipe(task, model={"architecture": architecture, "config": config}, **changes)
    return build(parse(its), TOKENIZER, SPECIALS, None)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra"])
def test_a_network_that_sees_what_it_is_to_predict_is_refused(architecture: str) -> None:
    with pytest.raises(RecipeError, match=f"{architecture} sees the tokens that objective causal"):
        built(architecture, BERT)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("gpt2", {"n_layer": 1, "n_head": 2, "n_embd": 16}),
        ("llama", LLAMA),
        ("recurrent", {"hidden_size": 8}),
    ],
)
def test_one_that_reads_from_left_to_right_is_not(
    architecture: str, config: dict[str, Any]
) -> None:
    model = built(architecture, config).train()
    drawn = torch.get_rng_state()
    assert not looks_ahead(model)
    assert model.training and torch.equal(drawn, torch.get_rng_state()), "it leaves no trace"


@pytest.mark.parametrize(
    ("architecture", "task", "says"),
    [
        ("t5", "generate", "architecture t5 has no network for objective causal_lm"),
        ("gpt2", "translate", "architecture gpt2 has no network for objective seq2seq"),
        ("convolutional", "entities", "has no network for objective token_classification"),
        ("bert", "parse", "objective dependency_parsing needs model.architecture biaffine"),
    ],
)
def test_a_head_that_an_architecture_lacks_is_named(
    architecture: str, task: str, says: str
) -> None:
    with pytest.raises(RecipeError, match=says) as caught:
        built(architecture, {}, task)
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("architecture", "config", "task"),
    [
        ("bert", {**BERT, "is_decoder": True}, "generate"),
        ("gpt2", {"n_layer": 1, "n_head": 2, "n_embd": 16}, "answer"),
        ("t5", T5, "classify"),
        ("t5", T5, "embed"),
        ("marian", MARIAN, "fill_mask"),
        ("bart", MARIAN, "fill_mask"),
    ],
)
def test_what_could_not_be_served_is_not_trained(
    architecture: str, config: dict[str, Any], task: str
) -> None:
    says = f"{architecture} .*(does not serve|has no network for) objective"
    with pytest.raises(RecipeError, match=says):
        built(architecture, config, task)


def test_a_classifier_that_looks_for_padding_is_told_what_pads() -> None:
    sizes = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 8}
    model = GPT2ForSequenceClassification(GPT2Config(vocab_size=10, **sizes)).eval()
    assert model.config.pad_token_id is None
    with pytest.raises(RecipeError, match="no token to pad with and none that ends a text"):
        see_to_padding(model, None)
    see_to_padding(model, 9)
    ids = torch.tensor([[1, 2, 3, 9], [4, 5, 6, 7]])
    logits = model(input_ids=ids, attention_mask=(ids != 9).long()).logits
    alone = model(input_ids=ids[:1, :3]).logits
    assert torch.allclose(logits[:1], alone, atol=1e-5)
    see_to_padding(model, 3)
    assert model.config.pad_token_id == 9, "what a base says of itself stays"


def test_positions_that_no_token_has_are_no_room_for_any() -> None:
    """RoBERTa counts its positions from behind the padding token's id."""
    model = built("roberta", BERT, "classify", max_tokens=12).eval()
    assert model.config.max_position_embeddings == 12 + 1
    ids = torch.ones(1, 12, dtype=torch.long)
    assert model(input_ids=ids).logits.shape == (1, 2)
    with pytest.raises(RecipeError, match="max_tokens 12 is more than the model's 11 positions"):
        built("roberta", {**BERT, "max_position_embeddings": 12}, "classify", max_tokens=12)
