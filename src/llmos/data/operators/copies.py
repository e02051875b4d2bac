"""New records made of others: their ids, what is noted in both, what becomes of spans.

The record itself stays, and behind it come the new ones: ``ID~aug1``, ``ID~aug2``, … In ``meta``,
``augment`` says of a new one what it is made ``of`` and ``by`` which operator, and of the other how
many ``copies`` it has, so that another operator goes on with the next number. Nothing is made of
what was itself made so.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar, TypeVar

from pydantic import Field

from llmos.data.operators.chance import chance
from llmos.data.operators.pieces import Piece, Span, blocks, check_spans, joined
from llmos.data.pipeline.operator import Operator, Options, TextOptions
from llmos.data.pipeline.record import Record, Row
from llmos.errors import DataError

SPANS = "entities"
NOTE, OF, WITH, BY, COPIES = "augment", "of", "with", "by", "copies"
TRIES = 4
"""For each new text; chance may find none that is not there already."""
NOTHING_NEW = "nothing new: no other text was found"
MAX_COPIES = 8
"""A shard of rows, and so many times that, fits into a process's memory."""
_PLACES = ("start", "answers")
"""Fields that say where in ``context`` an answer is."""


class AugmentOptions(TextOptions):
    copies: int = Field(default=1, ge=1, le=MAX_COPIES, description="new records of each, at most")


class EditOptions(AugmentOptions):
    spans: str | None = Field(
        default=SPANS,
        description="field of the {start, end} spans in the text: they stay and move with it",
    )


def is_copy(record: Record) -> bool:
    """Whether an operator has made a record of another."""
    return OF in _note(record)


@dataclass(frozen=True, slots=True)
class Made:
    """What a new record is to be.

    Attributes:
        reason: why it is dropped, None where it is kept.
        beside: another record that it is made of.
    """

    fields: Row
    reason: str | None = None
    beside: str | None = None


def add_copies(record: Record, by: str, made: Sequence[Made]) -> list[Record]:
    """Return a record, and new ones behind it. What the fields of both hold is shared."""
    first = _count(record) + 1
    copies = []
    for number, one in enumerate(made, first):
        note = {OF: record.id, BY: by} | ({WITH: one.beside} if one.beside else {})
        meta = {**record.meta, NOTE: note}
        copies.append(Record(f"{record.id}~aug{number}", one.fields, meta, one.reason))
    if copies:
        record.meta[NOTE] = {COPIES: first + len(copies) - 1}
    return [record, *copies]


def _note(record: Record) -> dict[str, Any]:
    note = record.meta.get(NOTE)
    return note if isinstance(note, dict) else {}


def _count(record: Record) -> int:
    count = _note(record).get(COPIES)
    return count if type(count) is int and count > 0 else 0


E_co = TypeVar("E_co", bound=EditOptions, covariant=True)


class Editor(Operator[E_co]):
    """Yields each record, and behind it new ones with small changes of its text.

    Parts of the text that spans cover stay as they are, and the spans move with them. Of messages
    the user's are changed: a model that learns from them is not to learn the changes.
    """

    group = "augment"
    adds = ()
    options_type: ClassVar[type[Options]] = EditOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            yield from add_copies(record, self.name, [] if is_copy(record) else self._made(record))

    def cut(self, text: str, spans: Sequence[Span]) -> list[Piece]:
        """Return the pieces that are changed."""
        return blocks(text, spans)

    @abstractmethod
    def changed(self, pieces: list[Piece], chance: Random) -> list[Piece]:
        """Return pieces with small changes; those with spans stay."""

    def _made(self, record: Record) -> list[Made]:
        name = self.options.field
        check_places(record, name)
        spans = spans_of(record, name, self.options.spans)
        turns = _turns(record, name)
        cuts = [self.cut(turn, spans) for turn in turns]
        seen = [turns]
        made: list[Made] = []
        for number in range(self.options.copies):
            for attempt in range(TRIES):
                luck = chance(self.seed, self.name, record.id, number, attempt)
                new = [self.changed(list(pieces), luck) for pieces in cuts]
                texts = [joined(pieces, spans)[0] for pieces in new]
                if texts not in seen and all(text.strip() for text in texts):
                    seen.append(texts)
                    moved = joined(new[0], spans)[1] if spans else []
                    made.append(Made(self._fields(record, texts, moved)))
                    break
            else:
                made.append(Made(dict(record.fields), NOTHING_NEW))
        return made

    def _fields(self, record: Record, texts: Sequence[str], spans: list[Span]) -> Row:
        name, value = self.options.field, record.fields[self.options.field]
        fields = dict(record.fields)
        if isinstance(value, str):
            fields[name] = texts[0]
        else:
            left = iter(texts)
            fields[name] = [
                turn | {"content": next(left)} if _is_asked(turn) else turn for turn in value
            ]
        if spans and self.options.spans is not None:
            fields[self.options.spans] = spans
        return fields


def spans_of(record: Record, field: str, spans: str | None) -> list[Span]:
    """Return the spans in a text of a record. Raises DataError: they are none of this text."""
    value = None if spans is None else record.fields.get(spans)
    if value is None:
        return []
    text = record.fields.get(field)
    if not isinstance(text, str):
        raise DataError(f"{spans!r} are places in a text, but {field!r} is none")
    return check_spans(value, str(spans), text)


def check_places(record: Record, field: str) -> None:
    """Refuse a text with the answer to a question at a known place. Raises DataError."""
    if field != "context":
        return
    for name in _PLACES:
        if record.fields.get(name) is not None:
            raise DataError(
                f"{name!r} says where in {field!r} the answer is, and it would move: change "
                "another field, or keep it as a span"
            )


def check_no_spans(record: Record) -> None:
    """Refuse a record with spans, where a text is written anew. Raises DataError."""
    if record.fields.get(SPANS):
        raise DataError(f"a text that is written anew has its {SPANS!r} no longer where they were")


def _turns(record: Record, name: str) -> list[str]:
    """Return the texts that are changed. Raises DataError: there are none."""
    whole = record.text(name)
    value = record.fields[name]
    if isinstance(value, str):
        return [whole]
    return [turn["content"] for turn in value if _is_asked(turn)]


def _is_asked(turn: Any) -> bool:
    is_turn = isinstance(turn, dict) and isinstance(turn.get("content"), str)
    return is_turn and turn.get("role") == "user"
