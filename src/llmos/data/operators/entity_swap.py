"""New records whose named entities are others of the same kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from pydantic import Field

from llmos.data.operators.chance import chance
from llmos.data.operators.copies import (
    NOTHING_NEW,
    SPANS,
    AugmentOptions,
    Made,
    add_copies,
    check_places,
    is_copy,
)
from llmos.data.operators.pieces import Span, check_spans
from llmos.data.operators.words import is_chinese
from llmos.data.pipeline.operator import Batcher
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

Names = Mapping[str, Sequence[str]]
"""Label -> entities."""


class EntitySwapOptions(AugmentOptions):
    spans: str = Field(
        default=SPANS, min_length=1, description="field of the {start, end, label} spans"
    )
    names: dict[str, list[str]] = Field(
        default={}, description="label: [entities]; those of near records by default"
    )


class EntitySwap(Batcher[EntitySwapOptions]):
    """Adds copies whose named entities are replaced by others of the same label; the spans move.

    The others are taken from a table, or from the records that lie near. Chinese ones replace
    Chinese ones.

    >>> swap = EntitySwap(names={"PER": ["Ada"], "LOC": ["Oslo"]})
    >>> text = "Bob left Rome."
    >>> spans = [{"start": 0, "end": 3, "label": "PER"}, {"start": 9, "end": 13, "label": "LOC"}]
    >>> copy = apply([swap], [Record("1", {"text": text, "entities": spans})]).records[1]
    >>> copy.text(), [(one["start"], one["end"]) for one in copy.fields["entities"]]
    ('Ada left Oslo.', [(0, 3), (9, 13)])
    """

    name = "entity_swap"
    adds = ()
    group = "augment"
    options_type = EntitySwapOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Return records, each with new ones behind it.

        Raises:
            DataError: the spans of one have no labels, overlap, or are not in its text.
        """
        texts = [record.text(self.options.field) for record in records]
        spans = [self._spans(record, text) for record, text in zip(records, texts, strict=True)]
        names = self.options.names or _names_in(texts, spans)
        out: list[Record] = []
        for record, text, some in zip(records, texts, spans, strict=True):
            is_made = is_copy(record) or not some
            made = [] if is_made else self._made(record, text, some, names)
            out += add_copies(record, self.name, made)
        return out

    def _spans(self, record: Record, text: str) -> list[Span]:
        name = self.options.spans
        check_places(record, self.options.field)
        found = check_spans(record.fields.get(name), name, text)
        ordered = sorted(found, key=lambda span: int(span["start"]))
        last = 0
        for span in ordered:
            if not isinstance(span.get("label"), str):
                raise DataError(f"a span of {name!r} has no label")
            if span["start"] < last:
                raise DataError(f"spans of {name!r} overlap: neither can be replaced")
            last = span["end"]
        return ordered

    def _made(self, record: Record, text: str, spans: list[Span], names: Names) -> list[Made]:
        seen = {text}
        made: list[Made] = []
        for number in range(self.options.copies):
            luck = chance(self.seed, self.name, record.id, number)
            new, moved = _swapped(text, spans, names, luck)
            fields = record.fields | {self.options.field: new, self.options.spans: moved}
            made.append(Made(fields, NOTHING_NEW if new in seen else None))
            seen.add(new)
        return made


def _names_in(texts: Sequence[str], spans: Sequence[list[Span]]) -> Names:
    found: dict[str, dict[str, None]] = {}
    for text, some in zip(texts, spans, strict=True):
        for span in some:
            found.setdefault(span["label"], {})[text[span["start"] : span["end"]]] = None
    return {label: list(names) for label, names in found.items()}


def _swapped(
    text: str, spans: Sequence[Span], names: Names, luck: Random
) -> tuple[str, list[Span]]:
    """Return a text with other names at its spans, and where these are."""
    parts: list[str] = []
    moved: list[Span] = []
    last = length = 0
    for span in spans:
        before = text[last : span["start"]]
        name = text[span["start"] : span["end"]]
        others = [
            other
            for other in names.get(span["label"], ())
            if other and other != name and is_chinese(other) == is_chinese(name)
        ]
        new = luck.choice(others) if others else name
        start = length + len(before)
        place = {"start": start, "end": start + len(new)}
        moved.append(span | place | ({"text": new} if "text" in span else {}))
        parts += [before, new]
        last, length = span["end"], start + len(new)
    return "".join([*parts, text[last:]]), moved
