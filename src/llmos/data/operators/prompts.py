"""What a chat model is asked, from templates, and what it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmos.errors import DataError

CHAT = "/v1/chat/completions"
_PLACE = re.compile(r"\{\{|\}\}|\{(\w+)\}")
_BRACES = {"{{": "{", "}}": "}"}


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, and whether it came to its end."""

    text: str
    is_whole: bool


def names_in(template: str) -> list[str]:
    """Return the names that stand in braces in a template."""
    return [found[1] for found in _PLACE.finditer(template) if found[1]]


def filled(template: str, values: Mapping[str, str]) -> str:
    """Return a template with values in the places of their names in braces; {{ is a brace.

    Raises:
        DataError: there is no value of a name.
    """

    def value(found: re.Match[str]) -> str:
        if found[1] is None:
            return _BRACES[found[0]]
        if found[1] not in values:
            has = ", ".join(sorted(values)) or "nothing"
            raise DataError(f"the template has {found[0]}, but the record only {has}")
        return values[found[1]]

    return _PLACE.sub(value, template)


def chat(
    model: str, asked: str | list[dict[str, Any]], seed: int, system: str = "", **sampling: Any
) -> dict[str, Any]:
    """Return the body of a question to a chat model: a text of the user, or messages."""
    messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    return {"model": model, "messages": messages, "seed": seed, **sampling}


def said(answer: Mapping[str, Any]) -> list[Said]:
    """Return the answers in what the server answers, without white space around."""
    return [
        Said((one["message"].get("content") or "").strip(), one["finish_reason"] == "stop")
        for one in answer["choices"]
    ]
