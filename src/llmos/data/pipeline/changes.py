"""A value before an operator and after it, as it is shown: where the two part."""

from __future__ import annotations

from typing import Any

import msgspec

BEFORE_CHARS = 40
"""That are shown before the first difference."""
SHOWN_CHARS = 160


def changed_sample(identifier: str, before: Any, after: Any) -> dict[str, str]:
    """Return ``{"id", "before", "after"}``: about SHOWN_CHARS of both values from shortly before
    where they part; what is left out is "…". What is no text is JSON."""
    texts = [_text(before), _text(after)]
    pairs = enumerate(zip(*texts, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), min(map(len, texts)))
    begin = max(0, same - BEFORE_CHARS)
    was, now = (_cut(text, begin) for text in texts)
    return {"id": identifier, "before": was, "after": now}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _cut(text: str, begin: int) -> str:
    shown = text[begin : begin + SHOWN_CHARS]
    return ("…" if begin else "") + shown + ("…" if begin + len(shown) < len(text) else "")
