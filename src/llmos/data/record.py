"""What one example is, per objective: checked dataclasses made from the rows of any source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmos.errors import DataError
from llmos.types import Message

Row = Mapping[str, Any]
ROLES = ("system", "user", "assistant")
FIELDS = frozenset(
    ("text", "messages", "source", "target", "source_lang", "target_lang", "label", "entities")
)
"""Names that rows are read by, of what models are evaluated on."""


@dataclass(frozen=True, slots=True)
class Document:
    """A text to learn to continue."""

    text: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of a chat; the model learns the assistant's."""

    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Preference:
    """Turns of a chat, and two answers to them."""

    messages: tuple[Message, ...]
    chosen: Message
    rejected: Message


@dataclass(frozen=True, slots=True)
class Pair:
    """A source text and what it becomes; languages are empty where there are none."""

    source: str
    target: str
    source_lang: str = ""
    target_lang: str = ""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text and its class."""

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Entity:
    """A named span: characters ``start`` to ``end`` (exclusive)."""

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Annotated:
    """A text and the entities in it, in order, not overlapping."""

    text: str
    entities: tuple[Entity, ...]


Record = Document | Conversation | Preference | Pair | Labelled | Annotated


def to_record(kind: str, row: Row, where: str) -> Record:
    """Make the record that is learned from out of a row.

    Args:
        kind: preferences, texts, or the task: generate, chat, translate, classify or entities.
        row: field values by our field names.
        where: the place to name in an error ("file.jsonl, line 3").

    Raises:
        DataError: a field is missing or has the wrong shape.
    """
    return _MAKERS[kind](row, where)


def _text(row: Row, field: str, where: str) -> str:
    value = row.get(field)
    if value is None:
        has = ", ".join(sorted(map(str, row))) or "nothing"
        raise DataError(
            f"{where} has no {field!r}, only {has}: name the field with --set data.fields.{field}=…"
        )
    if isinstance(value, bool | int | float):
        return str(value)
    if not isinstance(value, str):
        raise DataError(f"{where}: {field!r} must be text, not {type(value).__name__}")
    return value


def _document(row: Row, where: str) -> Document:
    return Document(_text(row, "text", where))


def _pair(row: Row, where: str) -> Pair:
    return Pair(
        _text(row, "source", where),
        _text(row, "target", where),
        str(row.get("source_lang") or ""),
        str(row.get("target_lang") or ""),
    )


def _labelled(row: Row, where: str) -> Labelled:
    return Labelled(_text(row, "text", where), _text(row, "label", where))


def _conversation(row: Row, where: str) -> Conversation:
    messages = _messages(row, where)
    if all(message.role != "assistant" for message in messages):
        raise DataError(f"{where} has no assistant message to learn from")
    return Conversation(messages)


def _preference(row: Row, where: str) -> Preference:
    """``messages`` may be a ``prompt`` instead; an answer is text, or an assistant's message."""
    if "messages" in row:
        messages = _messages(row, where)
    else:
        messages = (Message("user", _text(row, "prompt", where)),)
    if messages[-1].role == "assistant":
        raise DataError(f"{where}: 'messages' end with an answer; both answers come after them")
    chosen, rejected = (_answer(row, name, where) for name in ("chosen", "rejected"))
    if chosen == rejected:
        raise DataError(f"{where}: the chosen and the rejected answer are the same")
    return Preference(messages, chosen, rejected)


def _answer(row: Row, name: str, where: str) -> Message:
    value = row.get(name)
    if isinstance(value, Mapping):
        if value.get("role") != "assistant":
            raise DataError(f"{where}: {name!r} must be text, or a message of the assistant")
        return Message("assistant", _text(value, "content", where))
    return Message("assistant", _text(row, name, where))


def _messages(row: Row, where: str) -> tuple[Message, ...]:
    turns = row.get("messages")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where} has no list of 'messages'")
    messages = []
    for turn in turns:
        if not isinstance(turn, Mapping) or turn.get("role") not in ROLES:
            raise DataError(f"{where}: a message needs a role of {', '.join(ROLES)}")
        messages.append(Message(turn["role"], _text(turn, "content", where)))
    return tuple(messages)


def _annotated(row: Row, where: str) -> Annotated:
    text = _text(row, "text", where)
    spans = row.get("entities")
    if not isinstance(spans, list):
        raise DataError(f"{where} has no list of 'entities'")
    entities, last = [], 0
    for span in sorted(spans, key=_start):
        entity = _entity(span, where)
        if not last <= entity.start < entity.end <= len(text):
            raise DataError(f"{where}: entity {span} overlaps another or lies outside the text")
        entities.append(entity)
        last = entity.end
    return Annotated(text, tuple(entities))


def _start(span: Any) -> int:
    start = span.get("start") if isinstance(span, Mapping) else None
    return start if isinstance(start, int) else -1


def _entity(span: Any, where: str) -> Entity:
    if not isinstance(span, Mapping):
        raise DataError(f"{where}: an entity must be {{start, end, label}}, not {span!r}")
    start, end, label = span.get("start"), span.get("end"), span.get("label")
    if not (isinstance(start, int) and isinstance(end, int) and isinstance(label, str)):
        raise DataError(f"{where}: an entity must be {{start, end, label}}, not {dict(span)}")
    return Entity(start, end, label)


_MAKERS: dict[str, Callable[[Row, str], Record]] = {
    "generate": _document,
    "texts": _document,
    "chat": _conversation,
    "preferences": _preference,
    "translate": _pair,
    "classify": _labelled,
    "entities": _annotated,
}
