"""Rows that are given to be learned, without an answer of a model: read as feedback is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec

from llmos.data.record import Conversation, Document, Preference, Record, to_record
from llmos.errors import DataError
from llmos.library.feedback import Lesson
from llmos.library.lessons import LEARNED_ROLES


def lessons_of(rows: Iterable[dict[str, Any]], first: int = 1) -> list[Lesson]:
    """Return what rows teach: ``{"messages"}``, of which the last answer that is not only read, a
    better and a worse answer as for DPO, or ``{"text"}``.

    Raises:
        DataError: a row is none of these, or teaches nothing; the message says which, counted
            from ``first``.
    """
    return [_lesson(row, f"row {number}") for number, row in enumerate(rows, first)]


def _lesson(row: dict[str, Any], where: str) -> Lesson:
    kind = "chat" if "messages" in row else "generate"
    if {"rejected", "non_preferred_output"} & row.keys():
        kind = "preferences"
    made = _made(row, to_record(kind, row, where))
    if not made.target:
        raise DataError(f"{where} teaches nothing: its answer, or text, is empty")
    if not made.prompt and not isinstance(made.prompt, str):
        raise DataError(f"{where} begins with its answer: what it answers is missing")
    if any(turn["role"] not in LEARNED_ROLES for turn in made.prompt):
        raise DataError(f"{where} has a tool's turn: conversations with tools are not learned")
    return made


def _made(row: dict[str, Any], record: Record) -> Lesson:
    digest = hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()[:32]
    match record:
        case Preference():
            turns = msgspec.to_builtins(record.messages)
            return Lesson(digest, turns, record.chosen.content, record.rejected.content)
        case Conversation():
            messages = record.messages
            answers = [n for n, message in enumerate(messages) if message.role == "assistant"]
            last = max(n for n in answers if n not in record.only_read)
            return Lesson(digest, msgspec.to_builtins(messages[:last]), messages[last].content)
        case _:
            assert isinstance(record, Document)
            return Lesson(digest, "", record.text)
