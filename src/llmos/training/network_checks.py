"""What a network must be able to do to learn what a recipe wants: tried on it, not looked up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel

from llmos.errors import InvalidModelError, RecipeError
from llmos.library.architectures import identify
from llmos.training.counted import is_counted
from llmos.training.micro_batches import is_out_of_memory
from llmos.training.recipe import Recipe

PREDICTING = frozenset({"causal_lm", "dpo", "adversarial"})
"""Objectives whose network may not see the tokens that it is to say come next."""
TOLERANCE = 1e-5
"""Of the largest logit."""
WRITING_HEADS = frozenset({"seq2seq", "token_classification"})
"""Of encoder-decoders: what they write, or tags of what their encoders read."""


@contextlib.contextmanager
def model_errors(what: str) -> Iterator[None]:
    """Raise RecipeError in place of what a network says of numbers that do not fit together."""
    try:
        yield
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise RecipeError(f"{what}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Return what an error of transformers says, without what it lists."""
    told, _, _ = str(error).partition("Model type should be one of")  # hundreds follow
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    said = " ".join(lines[:3]) or type(error).__name__
    return f"there is no {said}" if isinstance(error, KeyError) else said


def check_served(model: PreTrainedModel, recipe: Recipe) -> None:
    """See that llmos can serve what is to be trained.

    Raises:
        RecipeError: it cannot, as no network of this kind has such a head.
    """
    kind, name = model.config.model_type, type(model).__name__
    fits = not model.config.is_encoder_decoder or recipe.head in WRITING_HEADS
    with contextlib.suppress(InvalidModelError):
        named = {"model_type": kind, "architectures": [name]}
        identify(named, "embed" if recipe.head == "embedding" else None)
        if fits:
            return
    raise RecipeError(
        f"architecture {kind} ({name}) does not serve objective {recipe.objective}: "
        "`llmos architectures` says what each is for"
    )


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
