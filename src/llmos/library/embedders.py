"""What a sentence-transformers directory says of an embedding model beyond its config.json.

Pooling, normalisation, prompts and the longest text; sensible ones where a directory says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmos.errors import InvalidModelError
from llmos.library.architectures import MULTITASK, AskedTask
from llmos.library.files import (
    MODULES_FILE,
    POOLING_FILE,
    PROMPTS_FILE,
    SENTENCE_FILE,
    read_json,
)
from llmos.types import NESTED_FILES

MAX_PROMPT_CHARS = 4000
_MAX_PROMPTS = 200
_MAX_MODULES_BYTES = 100_000
_MODULES = frozenset({"Transformer", "Pooling", "Normalize"})
_POOLINGS = {
    "cls": "cls",
    "cls_token": "cls",
    "mean": "mean",
    "mean_tokens": "mean",
    "lasttoken": "last",
}
"""sentence-transformers' names of what the engine does, the newer and the older."""
_WIDTHS = ("latent_size", "hidden_size", "n_embd", "d_model", "dim")


def is_embedder(directory: Path) -> bool:
    """Whether the directory is one that sentence-transformers saved."""
    return (directory / MODULES_FILE).exists()


def wanted_task(
    directory: Path, config: Mapping[str, Any], asked: AskedTask | None
) -> AskedTask | None:
    """Return the task that was asked for, else the one that the directory was saved for."""
    names = config.get("architectures")
    name = str(names[0]) if isinstance(names, list) and names else ""
    has_heads = name.endswith("ForSequenceClassification") or name == MULTITASK
    return asked or ("embed" if is_embedder(directory) and not has_heads else None)


def embedding(directory: Path, config: Mapping[str, Any], *, is_decoder: bool) -> dict[str, Any]:
    """Return the manifest's ``embedding``: pooling, normalize, dimensions, prompts.

    A directory that does not say takes the mean of an encoder's hidden states or the last of a
    decoder's, at unit length.

    Raises:
        InvalidModelError: the model has modules, or a pooling, that llmos does not run.
    """
    values: dict[str, Any] = {"pooling": "last" if is_decoder else "mean", "normalize": True}
    values["dimensions"] = next(
        (config[key] for key in _WIDTHS if type(config.get(key)) is int and config[key] > 0), 0
    )
    if not is_embedder(directory):
        return {**values, "prompts": {}}
    modules = _modules(directory)
    pooling = read_json(directory / POOLING_FILE, missing_ok=True)
    if "Pooling" in modules:
        values["pooling"] = _pooling(pooling)
    values["normalize"] = "Normalize" in modules
    counts_prompts = pooling.get("include_prompt", True)
    return {**values, "prompts": _prompts(directory) if counts_prompts else {}}


def longest_text(directory: Path, config: Mapping[str, Any]) -> int | None:
    """Return the most tokens the model was made to embed, None where it does not say."""
    told = read_json(directory / SENTENCE_FILE, missing_ok=True)
    limit = told.get("max_seq_length", config.get("max_text_tokens"))
    return limit if type(limit) is int and limit > 0 else None


def _modules(directory: Path) -> list[str]:
    """Return the class names of the model's modules, in order."""
    path = directory / MODULES_FILE
    try:
        if path.stat().st_size > _MAX_MODULES_BYTES:
            raise ValueError("it is too large")
        listed = json.loads(path.read_bytes())
        if not isinstance(listed, list) or not listed:
            raise ValueError("it is no list")
        kinds = [str(module["type"]).rpartition(".")[2] for module in listed]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise InvalidModelError(
            f"{MODULES_FILE} is not a list of modules: save the model again with "
            "sentence-transformers",
            param="files",
        ) from error
    if unknown := next((kind for kind in kinds if kind not in _MODULES), None):
        known = ", ".join(sorted(_MODULES))
        raise InvalidModelError(
            f"{MODULES_FILE} has the module {unknown[:80]!r}; llmos embeds with {known} only: "
            "choose another embedding model",
            param="files",
        )
    return kinds


def _pooling(config: Mapping[str, Any]) -> str:
    """Return the engine's name of the pooling that 1_Pooling/config.json asks for."""
    if not config:
        raise InvalidModelError(
            f"there is no {NESTED_FILES[POOLING_FILE]}, which says how to pool: add it",
            param="files",
        )
    prefix = "pooling_mode_"
    asked = [key.removeprefix(prefix) for key, on in config.items() if on is True and prefix in key]
    if isinstance(config.get("pooling_mode"), str):
        asked = [config["pooling_mode"]]
    if len(asked) != 1 or asked[0] not in _POOLINGS:
        named = ", ".join(name[:40] for name in asked) or "nothing"
        raise InvalidModelError(
            f"{NESTED_FILES[POOLING_FILE]} asks to pool by {named}; llmos pools by one of mean, "
            "cls and lasttoken: choose another embedding model",
            param="files",
        )
    return _POOLINGS[asked[0]]


def _prompts(directory: Path) -> dict[str, str]:
    """Return the texts the model wants before its inputs, by name."""
    prompts = read_json(directory / PROMPTS_FILE, missing_ok=True).get("prompts")
    items = list(prompts.items())[:_MAX_PROMPTS] if isinstance(prompts, dict) else []
    return {
        name[:100]: text
        for name, text in items
        if isinstance(text, str) and text and len(text) <= MAX_PROMPT_CHARS
    }
