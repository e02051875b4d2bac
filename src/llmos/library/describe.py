"""Reads single facts off a model directory's files: context, labels, end tokens, template, card.

Part of ``manifest``, which puts the facts together. Everything read here was written by strangers:
sizes are bounded and wrong types are ignored or refused, never trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmos.errors import InvalidModelError
from llmos.library.files import read_json

MAX_TEMPLATE_CHARS = 200_000
_MAX_CARD_BYTES = 1_000_000
_MAX_CONTEXT_TOKENS = 100_000_000
_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
_UNBOUNDED_CONTEXT_TOKENS = 2048
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer"}
)
_SPECIAL_TOKENS = ("bos", "eos", "pad", "unk")
HEAD_TASKS = ("classify", "entities", "rate", "answer", "fill_mask", "embed")
"""Of a network with several heads."""
_USUAL_MASKS = ("[MASK]", "<mask>")


@dataclass(frozen=True, slots=True)
class Card:
    """What a README's front matter says."""

    license: str = ""
    languages: tuple[str, ...] = ()


def context_tokens(config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> int:
    """Return how many tokens fit: the position limit, else the tokenizer's, else 2,048.

    2,048 stands for networks with relative positions (T5), which have no limit of their own.
    """
    limits = (config.get(key) for key in _CONTEXT_KEYS)
    limit = next((value for value in limits if type(value) is int and value > 0), None)
    if limit is not None:
        return limit - position_offset(config)
    longest = tokenizer_config.get("model_max_length")
    if isinstance(longest, int | float) and 0 < longest <= _MAX_CONTEXT_TOKENS:
        return int(longest)
    return _UNBOUNDED_CONTEXT_TOKENS


def position_offset(config: Mapping[str, Any]) -> int:
    """Return how many positions no token has: RoBERTa counts them from pad_token_id + 1."""
    pad = config.get("pad_token_id")
    if config.get("model_type") in _OFFSET_POSITIONS:
        return (pad if type(pad) is int else 1) + 1
    return 0


def labels(config: Mapping[str, Any]) -> list[str]:
    """Return the class names in the order of the output's columns.

    Raises:
        InvalidModelError: id2label does not number its labels 0, 1, 2, ….
    """
    named = config.get("id2label")
    if named is None:
        count = config.get("num_labels", 2)
        return [f"LABEL_{index}" for index in range(count if type(count) is int else 2)]
    numbered = {str(key): value for key, value in named.items()} if isinstance(named, dict) else {}
    ordered = [numbered.get(str(index)) for index in range(len(numbered))]
    if not ordered or not all(isinstance(label, str) for label in ordered):
        raise InvalidModelError(
            "config.json's id2label must number its labels 0, 1, 2, …", param="files"
        )
    return [str(label) for label in ordered]


def heads(config: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the tasks of a network with several heads, in order, each with its labels.

    Raises:
        InvalidModelError: config.json does not name them well.
    """
    listed = config.get("heads")
    heads = listed if isinstance(listed, list) else []
    found = {
        head["task"]: [str(label) for label in head["labels"]]
        for head in heads
        if isinstance(head, dict)
        and head.get("task") in HEAD_TASKS
        and isinstance(head.get("labels"), list)
    }
    if not found or len(found) < len(heads):
        raise InvalidModelError(
            'config.json\'s heads must be a list of {"task", "labels"}, each with another task '
            f"of {', '.join(HEAD_TASKS)}",
            param="files",
        )
    return found


def chat_template(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """Return the Jinja text of the chat template, None where the model has none.

    Raises:
        InvalidModelError: it is too long to be one.
    """
    template = _chat_template_file(directory) or tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {
            item.get("name"): item.get("template") for item in template if isinstance(item, dict)
        }
        template = named.get("default")
    if not isinstance(template, str) or not template.strip():
        return None
    if len(template) > MAX_TEMPLATE_CHARS:
        raise InvalidModelError(
            "the chat template is longer than 200,000 characters", param="files"
        )
    return template


def _chat_template_file(directory: Path) -> Any:
    jinja = directory / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text("utf-8", errors="replace")
    return read_json(directory / "chat_template.json", missing_ok=True).get("chat_template")


def special_tokens(directory: Path, tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """Return the texts of the bos, eos, pad and unk tokens the tokenizer names."""
    return _named_tokens(directory, tokenizer_config, _SPECIAL_TOKENS)


def mask_token(directory: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """Return the token that stands for a hidden one: as it is named, else as it is usual."""
    named = _named_tokens(directory, tokenizer_config, ("mask",)).get("mask")
    if named is not None:
        return named
    tokenizer = read_json(directory / "tokenizer.json", missing_ok=True)
    return next((token for token in _USUAL_MASKS if _token_ids(tokenizer, token)), None)


def _named_tokens(
    directory: Path, tokenizer_config: Mapping[str, Any], names: Sequence[str]
) -> dict[str, str]:
    older = read_json(directory / "special_tokens_map.json", missing_ok=True)
    found: dict[str, str] = {}
    for name in names:
        token = tokenizer_config.get(f"{name}_token") or older.get(f"{name}_token")
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str) and content:
            found[name] = content
    return found


def eos_ids(
    directory: Path,
    generation_config: Mapping[str, Any],
    config: Mapping[str, Any],
    special: Mapping[str, str],
) -> list[int]:
    """Return the ids that end a generation: both configs', else that of the tokenizer's eos."""
    found: list[int] = []
    for source in (generation_config, config):
        value = source.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        found += [token for token in ids if type(token) is int and token not in found]
    if not found and "eos" in special:
        found = _token_ids(read_json(directory / "tokenizer.json", missing_ok=True), special["eos"])
    return found


def _token_ids(tokenizer: Mapping[str, Any], token: str) -> list[int]:
    added = tokenizer.get("added_tokens")
    entries = (
        [item for item in added or [] if isinstance(item, dict)] if isinstance(added, list) else []
    )
    ids = [item.get("id") for item in entries if item.get("content") == token]
    return [identifier for identifier in ids if type(identifier) is int]


def read_card(path: Path) -> Card:
    """Return the licence and languages of a README's YAML front matter, empty where unsaid."""
    if not path.exists() or path.stat().st_size > _MAX_CARD_BYTES:
        return Card()
    lines = path.read_text("utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in (line.strip() for line in lines[1:]):
        return Card()
    end = next(index for index, line in enumerate(lines[1:], 1) if line.strip() == "---")
    try:
        front = yaml.safe_load("\n".join(lines[1:end]))
    except (yaml.YAMLError, RecursionError):  # a card is prose: a broken one says nothing
        return Card()
    if not isinstance(front, dict):
        return Card()
    return Card(_text(front.get("license")), _texts(front.get("language")))


def _text(value: Any) -> str:
    return value[:100] if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(text[:20] for text in values[:500] if isinstance(text, str))
