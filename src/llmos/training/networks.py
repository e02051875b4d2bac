"""Builds the network a recipe names: a fresh transformers architecture, or a base model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from llmos.data.tokenizers import Specials
from llmos.errors import RecipeError
from llmos.library.architectures import is_encoder
from llmos.library.describe import position_offset
from llmos.models.codes import ARCHITECTURES, CODE_TOKENS
from llmos.models.registry import AUTO_CLASSES, register
from llmos.training.adapters import add_adapter
from llmos.training.counted import is_counted
from llmos.training.network_checks import (
    check_causal,
    check_served,
    first_line,
    model_errors,
    see_to_padding,
)
from llmos.training.recipe import Recipe
from llmos.training.tagging import TOKEN_BYTES, check_tagger, token_bytes

register()
CLASSES: dict[str, Any] = AUTO_CLASSES
POSITIONS = ("max_position_embeddings", "n_positions")
TEXT_TOKENS = "max_text_tokens"
"""Of a network that reads a text before it writes one: its positions follow from it."""
Labels = Sequence[str] | Mapping[str, Sequence[str]]
"""Of the classes or tags of a network; of one with several heads those of each, by task."""


def build(
    recipe: Recipe, tokenizer: Tokenizer, specials: Specials, labels: Labels | None
) -> PreTrainedModel:
    """A fresh float32 model; draw on torch's generator, so seed it first.

    Raises:
        RecipeError: no such architecture or config key, or values that do not fit together.
    """
    config = _config(recipe, tokenizer, specials, labels)
    with model_errors("model.config does not make a model"):
        return _ready(CLASSES[recipe.head].from_config(config), recipe)


def load_base(
    recipe: Recipe, directory: Path, labels: Labels | None, pad_id: int | None
) -> PreTrainedModel:
    """The base model in ``directory`` in float32, with the recipe's dropout, with a new head where
    the labels are new, or with an adapter where the recipe trains one.

    Args:
        pad_id: the token that pads where the base says none.

    Raises:
        RecipeError: the base cannot learn this objective, or take that adapter.
    """
    options: dict[str, Any] = {"dtype": "float32", **recipe.model.config}
    if head := _head_values(recipe, labels):
        options |= head | {"ignore_mismatched_sizes": True}
    config = AutoConfig.from_pretrained(directory)
    _refuse_unknown(recipe.model.config, set(config.to_dict()) | set(config.attribute_map))
    if is_counted(config.model_type):
        raise RecipeError(
            f"{recipe.model.base} is counted, and cannot be counted on: train architecture "
            f"{config.model_type} anew on all of the text"
        )
    if type(config) not in CLASSES[recipe.head]._model_mapping:
        raise RecipeError(
            f"{recipe.model.base} is a {config.model_type}, which has no network for objective "
            f"{recipe.objective}: `llmos architectures` says what each is for"
        )
    try:
        model = CLASSES[recipe.head].from_pretrained(directory, **options)
    except ValueError as error:
        raise RecipeError(
            f"{recipe.model.base} cannot learn {recipe.objective}: {first_line(error)}"
        ) from error
    if recipe.head == "sequence_classification":
        see_to_padding(model, pad_id)
    model = _ready(model, recipe)
    return model if recipe.adapter is None else add_adapter(model, recipe.adapter)


def load_teacher(recipe: Recipe, directory: Path) -> PreTrainedModel:
    """The model in ``directory`` in float32, to learn from.

    Raises:
        RecipeError: it does not do what the recipe's student is to learn.
    """
    assert recipe.distill is not None
    try:
        return CLASSES[recipe.head].from_pretrained(directory, dtype="float32")
    except ValueError as error:
        raise RecipeError(
            f"distill.teacher {recipe.distill.teacher} cannot teach {recipe.objective}: "
            f"{first_line(error)}"
        ) from error


def _config(
    recipe: Recipe, tokenizer: Tokenizer, specials: Specials, labels: Labels | None
) -> PreTrainedConfig:
    architecture = recipe.model.architecture
    assert architecture is not None
    if architecture not in CONFIG_MAPPING:
        near = difflib.get_close_matches(architecture, list(CONFIG_MAPPING), n=1)
        hint = f": did you mean {near[0]}?" if near else ": it must be a transformers model type"
        raise RecipeError(f"unknown model.architecture {architecture}{hint}")
    kind = CONFIG_MAPPING[architecture]
    if kind not in CLASSES[recipe.head]._model_mapping:
        raise RecipeError(
            f"architecture {architecture} has no network for objective {recipe.objective}: "
            "`llmos architectures` says what each is for"
        )
    fields = set(kind().to_dict())
    _refuse_unknown(recipe.model.config, fields | set(kind.attribute_map))
    values = _token_values(tokenizer, specials, fields)
    if TOKEN_BYTES in fields:
        values[TOKEN_BYTES] = token_bytes(tokenizer, specials, architecture)
    if TEXT_TOKENS in fields:
        values[TEXT_TOKENS] = recipe.max_length
    elif not is_counted(architecture) and not any(n in recipe.model.config for n in POSITIONS):
        room = recipe.max_length + position_offset({**values, "model_type": architecture})
        values |= {name: room for name in POSITIONS if name in fields}
    if recipe.head == "seq2seq":
        values["decoder_start_token_id"] = values["pad_token_id"]
    values |= _head_values(recipe, labels)
    _refuse_sizes(recipe.model.config, values["vocab_size"])
    try:
        return kind(**values | recipe.model.config)
    except Exception as error:  # each config class has validation errors of its own
        raise RecipeError(f"model.config is not valid: {first_line(error)}") from error


def _refuse_unknown(config: dict[str, Any], known: set[str]) -> None:
    for key in config:
        if key not in known:
            near = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise RecipeError(f"unknown recipe key model.config.{key}{hint}")


def _refuse_sizes(config: dict[str, Any], num_tokens: int) -> None:
    """Refuse numbers that some networks take for none, or only find too small in the first step."""
    for key, value in config.items():
        if type(value) is int and value < 0 and not key.endswith("_id"):
            raise RecipeError(f"model.config.{key} is {value}: it must not be negative")
    if type(size := config.get("vocab_size")) is int and size < num_tokens:
        raise RecipeError(
            f"model.config.vocab_size {size} is less than the tokenizer's {num_tokens} tokens: "
            "leave it out"
        )


def _token_values(tokenizer: Tokenizer, specials: Specials, fields: set[str]) -> dict[str, Any]:
    """Vocabulary size and special token ids, by the names this architecture has for them."""
    vocab_size, pad = tokenizer.get_vocab_size(), tokenizer.token_to_id(specials.pad)
    first, last = specials.bos or specials.before, specials.after or specials.eos
    values = {
        "vocab_size": vocab_size,
        "decoder_vocab_size": vocab_size,
        "pad_token_id": pad,
        "eos_token_id": tokenizer.token_to_id(specials.eos),
        "bos_token_id": tokenizer.token_to_id(first) if first else None,
        "cls_token_id": tokenizer.token_to_id(first) if first else None,
        "sep_token_id": tokenizer.token_to_id(last),
        "forced_eos_token_id": None,
        "code_token_id": tokenizer.token_to_id(CODE_TOKENS[0]),
        "first_level_id": tokenizer.token_to_id(CODE_TOKENS[1]),
    }
    return {name: value for name, value in values.items() if name in fields}


def _head_values(recipe: Recipe, labels: Labels | None) -> dict[str, Any]:
    """What a config says of the head: the names of its outputs, or that it is one number; of
    several, for which task each is."""
    if isinstance(labels, Mapping):
        return {"heads": [{"task": task, "labels": [*own]} for task, own in labels.items()]}
    if recipe.objective == "regression":
        return {"id2label": {0: "score"}, "label2id": {"score": 0}, "problem_type": "regression"}
    if labels is None:
        return {}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _ready(model: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """The model with what the recipe freezes frozen, once its context is known to be enough."""
    _refuse_unfit(model, recipe)
    positions = next((getattr(model.config, n) for n in POSITIONS if hasattr(model.config, n)), 0)
    positions = getattr(model.config, TEXT_TOKENS, positions)
    if positions:
        positions -= position_offset(model.config.to_dict())
    if 0 < (positions or 0) < recipe.max_length:
        key = "block_size" if recipe.reads == "generate" else "max_tokens"
        raise RecipeError(
            f"{key} {recipe.max_length} is more than the model's {positions} positions: "
            f"use --set {key}={positions}"
        )
    check_causal(model, recipe)
    check_served(model, recipe)
    for pattern in recipe.model.freeze:
        chosen = [p for name, p in model.named_parameters() if fnmatchcase(name, pattern)]
        if not chosen:
            raise RecipeError(f"model.freeze: no parameter is named {pattern}")
        for parameter in chosen:
            parameter.requires_grad_(False)
    if recipe.model.train_only:
        _freeze_others(model, recipe.model.train_only)
    if recipe.activation_checkpointing:
        if not model.supports_gradient_checkpointing:
            raise RecipeError("activation_checkpointing: this network cannot: leave it out")
        model.activation_checkpointing_enable({"use_reentrant": False})
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise RecipeError("model.freeze leaves nothing to train")
    return model


def _freeze_others(model: PreTrainedModel, patterns: Sequence[str]) -> None:
    """Freeze all but the parameters that are named.

    Raises:
        RecipeError: a pattern names none, or `head` is asked of a network whose head is also its
            embeddings.
    """
    body = {id(parameter) for parameter in model.base_model.parameters()}
    kept: set[str] = set()
    for pattern in patterns:
        named = model.named_parameters()
        if pattern == "head":
            chosen = {
                name for name, p in named if id(p) not in body and model.base_model is not model
            }
        else:
            chosen = {name for name, _ in named if fnmatchcase(name, pattern)}
        if not chosen and pattern == "head":
            raise RecipeError(
                "model.train_only: this network has no head of its own (it may be its embeddings, "
                "tied): name its last layers by patterns, as model.layers.3.*"
            )
        if not chosen:
            raise RecipeError(f"model.train_only: no parameter is named {pattern}")
        kept |= chosen
    for name, parameter in model.named_parameters():
        if name not in kept:
            parameter.requires_grad_(False)


def _refuse_unfit(model: PreTrainedModel, recipe: Recipe) -> None:
    """Refuse an objective for a network that is not made for it."""
    kind = model.config.model_type
    check_tagger(model, recipe)
    if recipe.also is not None and not is_encoder(kind):
        raise RecipeError(f"architecture {kind} is no encoder: also needs one, such as modernbert")
    wanted = ARCHITECTURES.get(recipe.objective)
    if wanted is not None and kind != wanted:
        raise RecipeError(f"objective {recipe.objective} needs model.architecture {wanted}")
    for objective, architecture in ARCHITECTURES.items():
        if kind == architecture and recipe.objective != objective:
            raise RecipeError(f"architecture {kind} needs objective {objective}")
