"""Rows of words and their tags as texts with spans, which taggers learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from llmos.data.formats.conll import spaced
from llmos.errors import DataError

Row = Mapping[str, Any]
WORD = "WORD"
"""The label of a word where no tags are given: what is learned is where words begin and end."""
_PREFIXES = ("B-", "I-", "E-", "S-")


def with_spans(row: Row, where: str) -> dict[str, Any]:
    """Return ``{"text", "entities"}`` of a row of ``tokens``.

    ``tags`` say what the words are, one each, or, as B-, I- and O, which of them make up a name.
    Without tags each word is a span called WORD. The text is the row's, where its words stand in
    it, else the words with spaces between.

    Raises:
        DataError: there are no words, or not as many tags.
    """
    tokens, tags = row.get("tokens"), row.get("tags")
    if not _is_texts(tokens):
        raise DataError(f"{where} has no list of 'entities', nor of 'tokens'")
    if tags is not None and (not _is_texts(tags) or len(tags) != len(tokens)):
        raise DataError(f"{where} must have one of 'tags' for each of {len(tokens)} 'tokens'")
    text = row.get("text")
    places = _places(text, tokens) if isinstance(text, str) else None
    if not isinstance(text, str) or places is None:
        text = spaced(tokens)
        places = _places(text, tokens)
        assert places is not None, "the text is made of them"
    return {"text": text, "entities": _spans(places, tags or [WORD] * len(tokens))}


def _is_texts(value: Any) -> TypeGuard[list[str]]:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def _places(text: str, tokens: Sequence[str]) -> list[tuple[int, int]] | None:
    """Return where each word stands, None where one does not."""
    places, at = [], 0
    for token in tokens:
        start = text.find(token, at)
        if start < 0 or text[at:start].strip():
            return None
        at = start + len(token)
        places.append((start, at))
    return places


def _spans(places: Sequence[tuple[int, int]], tags: Sequence[str]) -> list[dict[str, Any]]:
    spans: list[dict[str, Any]] = []
    is_open = False
    for (start, end), tag in zip(places, tags, strict=True):
        prefix, label = (tag[:2], tag[2:]) if tag.startswith(_PREFIXES) else ("", tag)
        if tag == "O" or start == end:
            is_open = False
            continue
        goes_on = prefix in ("I-", "E-") and is_open and spans[-1]["label"] == label
        if goes_on:
            spans[-1]["end"] = end
        else:
            spans.append({"start": start, "end": end, "label": label})
        is_open = bool(prefix) and prefix != "S-"
    return spans
