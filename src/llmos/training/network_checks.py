"""What a network must be able to do to learn what a recipe wants: tried on it, not looked up."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from llmos.errors import RecipeError
from llmos.training.counted import is_counted
from llmos.training.recipe import Recipe

PREDICTING = frozenset({"causal_lm", "dpo", "adversarial"})
"""Objectives whose network may not see the tokens that it is to say come next."""
TOLERANCE = 1e-5
"""Of the largest logit."""


def check_causal(model: PreTrainedModel, recipe: Recipe) -> None:
    """See that a network that is to predict tokens does not see them.

    Raises:
        RecipeError: it does, so that it would learn to copy.
    """
    if recipe.objective not in PREDICTING or is_counted(recipe.model.architecture):
        return
    if looks_ahead(model):
        raise RecipeError(
            f"{recipe.model.base or recipe.model.architecture} sees the tokens that objective "
            f"{recipe.objective} has it predict: use a network that reads from left to right, such "
            "as gpt2 or llama"
        )


@torch.no_grad()
def looks_ahead(model: PreTrainedModel) -> bool:
    """Whether the logits of a token hang on those behind it."""
    was_training = model.training
    model.eval()
    ids = torch.tensor([[0, 0], [0, 1]], device=model.device)
    first, second = model(input_ids=ids).logits[:, 0].float()
    model.train(was_training)
    return bool((first - second).abs().max() > TOLERANCE * first.abs().max())


def see_to_padding(model: PreTrainedModel, pad_id: int | None) -> None:
    """Have a classifier that finds the end of a text by the padding know what pads.

    Raises:
        RecipeError: nothing does.
    """
    if model.config.pad_token_id is not None:
        return
    if pad_id is None:
        raise RecipeError(
            "the base's tokenizer names no token to pad with and none that ends a text, which a "
            "classifier of texts needs: name one in its tokenizer_config.json (pad_token)"
        )
    model.config.pad_token_id = pad_id
