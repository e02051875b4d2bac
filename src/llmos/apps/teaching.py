"""Rows that are given to be learned, without an answer of a model: read as feedback is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from llmos.data.record import Conversation, Document, Preference, to_record
from llmos.library.feedback import Lesson


def lessons_of(rows: Iterable[dict[str, Any]]) -> list[Lesson]:
    """Return what rows teach: ``{"messages"}`` whose last turn is the assistant's, a better and a
    worse answer as for DPO, or ``{"text"}``.

    Raises:
        DataError: a row is none of these; the message says which, counted from 1.
    """
    return [_lesson(row, f"row {number}") for number, row in enumerate(rows, 1)]


def _lesson(row: dict[str, Any], where: str) -> Lesson:
    kind = "chat" if "messages" in row else "generate"
    if {"rejected", "non_preferred_output"} & row.keys():
        kind = "preferences"
    record = to_record(kind, row, where)
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:32]
    match record:
        case Preference():
            turns = msgspec.to_builtins(record.messages)
            return Lesson(digest, turns, record.chosen.content, record.rejected.content)
        case Conversation():
            messages = record.messages
            last = max(n for n, message in enumerate(messages) if message.role == "assistant")
            return Lesson(digest, msgspec.to_builtins(messages[:last]), messages[last].content)
        case _:
            assert isinstance(record, Document)
            return Lesson(digest, "", record.text)
