from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.training.tiny import make_recipe

from llmos.data.tokenizers import specials_of, train_character
from llmos.errors import RecipeError
from llmos.training.networks import build
from llmos.training.recipe import override, parse

SPECIALS = specials_of("generate")
TOKENIZER = train_character(["hello world"], SPECIALS)


def built(recipe: dict[str, Any], *settings: str) -> Any:
    torch.manual_seed(0)
    return build(parse(override(recipe, list(settings))), TOKENIZER, SPECIALS, None)


def test_vocabulary_context_and_token_ids_come_from_the_recipe() -> None:
    config = built(make_recipe("generate")).config
    assert config.vocab_size == TOKENIZER.get_vocab_size()
    assert config.n_positions == 16
    assert config.eos_token_id == config.pad_token_id == 0


def test_frozen_parameters_do_not_train() -> None:
    model = built(make_recipe("generate"), "model.freeze=['*.bias']")
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad != name.endswith(".bias")
        assert parameter.requires_grad or not parameter.any()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.architecture=gpt3", "unknown model.architecture gpt3: did you mean gpt"),
        ("model.config.n_layr=3", "unknown recipe key model.config.n_layr: did you mean n_layer"),
        ("model.config.n_layer=many", "model.config is not valid"),
        ("model.config.n_head=5", "model.config does not make a model"),
        ("model.config.activation_function=foo", "not make a model: there is no 'foo'"),
        ("model.config.n_layer=-1", r"model.config.n_layer is -1: it must not be negative"),
        ("model.config.vocab_size=3", "vocab_size 3 is less than the tokenizer's 10 tokens"),
        (
            "model={architecture: llama, config: {hidden_size: 8, num_hidden_layers: 1, "
            "num_attention_heads: 2, num_key_value_heads: 3}}",
            "model.config does not make a model: The size of tensor",
        ),
        ("model.config.n_positions=8", "block_size 16 is more than the model's 8 positions"),
        ("model.freeze=[x.*]", "no parameter is named x"),
    ],
)
def test_a_network_that_cannot_be_is_refused(setting: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        built(make_recipe("generate"), setting)
