"""New records made of two that have the same label."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Literal

import msgspec
from pydantic import Field

from llmos.data.operators.chance import chance
from llmos.data.operators.copies import (
    NOTHING_NEW,
    EditOptions,
    Made,
    add_copies,
    check_places,
    is_copy,
    spans_of,
)
from llmos.data.operators.pieces import Span
from llmos.data.operators.words import HAN, is_chinese
from llmos.data.pipeline.operator import Batcher
from llmos.data.pipeline.options import FieldName
from llmos.data.pipeline.record import Record
from llmos.data.sentences import sentences
from llmos.errors import DataError

Kind = Literal["join", "sentences"]


class MixOptions(EditOptions):
    label: FieldName = Field(default="label", description="field that must be the same")
    kinds: list[Kind] = Field(
        default=["join", "sentences"],
        min_length=1,
        description="one text behind the other; or about half of the sentences of each, in turn",
    )


class Mix(Batcher[MixOptions]):
    """Adds copies that are made of two records with the same label, near each other.

    Chinese goes with Chinese.

    >>> records = [Record(one, {"text": one * 2, "label": "x"}) for one in "ab"]
    >>> [one.text() for one in apply([Mix(kinds=["join"])], records).records]
    ['aa', 'aa bb', 'bb', 'bb aa']
    """

    name = "mix"
    adds = ()
    group = "augment"
    options_type = MixOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Return records, each with new ones behind it; one without a partner has none.

        Raises:
            DataError: no record has a label, or one no text, or spans that are not in it.
        """
        name = self.options.label
        labels = [record.fields.get(name) for record in records]
        if records and all(label is None for label in labels):
            raise DataError(f"there is no {name!r} to have in common: set `label`")
        texts = [record.text(self.options.field) for record in records]
        spans = [self._spans(record) for record in records]
        alike: dict[bytes, list[int]] = {}
        keys = [
            msgspec.json.encode([label, is_chinese(text)], order="sorted")
            for label, text in zip(labels, texts, strict=True)
        ]
        for place, record in enumerate(records):
            if labels[place] is not None and not is_copy(record):
                alike.setdefault(keys[place], []).append(place)
        out: list[Record] = []
        for place, record in enumerate(records):
            group = alike.get(keys[place], []) if not is_copy(record) else []
            partners = [one for one in group if one != place]
            made = self._made(records, place, partners, texts, spans) if partners else []
            out += add_copies(record, self.name, made)
        return out

    def _spans(self, record: Record) -> list[Span]:
        check_places(record, self.options.field)
        if not isinstance(record.fields.get(self.options.field), str):
            raise DataError(f"{self.options.field!r} must be one text: messages are not mixed")
        return spans_of(record, self.options.field, self.options.spans)

    def _made(
        self,
        records: Sequence[Record],
        place: int,
        partners: Sequence[int],
        texts: Sequence[str],
        spans: Sequence[list[Span]],
    ) -> list[Made]:
        record, seen = records[place], {texts[place]}
        made: list[Made] = []
        for number in range(self.options.copies):
            luck = chance(self.seed, self.name, record.id, number)
            other = luck.choice(partners)
            fields: dict[str, Any] = dict(record.fields)
            if spans[place] or spans[other] or luck.choice(self.options.kinds) == "join":
                text, by = _joined(texts[place], texts[other])
                if (spans[place] or spans[other]) and self.options.spans:
                    moved = [_moved(span, by) for span in spans[other]]
                    fields[self.options.spans] = [*spans[place], *moved]
            else:
                text = _mixed(texts[place], texts[other], luck)
            fields[self.options.field] = text
            reason = NOTHING_NEW if text in seen or not text.strip() else None
            made.append(Made(fields, reason, records[other].id))
            seen.add(text)
        return made


def _joined(one: str, other: str) -> tuple[str, int]:
    """Return one text behind the other, and where the other begins."""
    gap = "" if HAN.search(one[-2:]) or HAN.match(other) or one[-1:].isspace() else " "
    return f"{one}{gap}{other}", len(one) + len(gap)


def _moved(span: Span, by: int) -> Span:
    return span | {"start": span["start"] + by, "end": span["end"] + by}


def _mixed(one: str, other: str, luck: Random) -> str:
    """Return about half of the sentences of each of two texts, those of both in turn."""
    halves = [_some(one, luck), _some(other, luck)]
    text = ""
    for number in range(max(map(len, halves))):
        for half in halves:
            if number < len(half):
                text = _joined(text, half[number])[0] if text else half[number]
    return text


def _some(text: str, luck: Random) -> list[str]:
    """Return half of the sentences of a text, one at least, in their order."""
    spans = sentences(text)
    kept = luck.sample(range(len(spans)), -(-len(spans) // 2))
    return [text[slice(*spans[place])] for place in sorted(kept)]
