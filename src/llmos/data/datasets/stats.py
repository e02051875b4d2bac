"""What a dataset is like, counted while its rows are written: sizes, lengths, scripts, values.

Counts of shards add up to the same whatever their order. Lengths are characters; beyond 128 they
are counted in steps of under 2%.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import regex

from llmos.data.pipeline.record import ID, META, Row

MAX_VALUES = 50
"""A field with more different values than this is not told value by value."""
MAX_VALUE_CHARS = 60
QUANTILES = (5, 25, 50, 75, 95)
HASH_BYTES = 8
HASHES_A_PASS = 10**7
_EXACT_BITS = 7
_HAN = regex.compile(r"\p{Han}+")
_LATIN = regex.compile(r"[\p{Latin}--[A-Za-z]]+", regex.VERSION1)
"""Beyond ASCII."""
_NO_LETTERS = bytes(set(range(256)) - set(string.ascii_letters.encode()))

Counts = dict[str, int]


class FieldStats(msgspec.Struct):
    """Of one field. ``values`` is None once there are more than MAX_VALUES."""

    present: int = 0
    characters: int = 0
    words: int = 0
    """Between white space; of Chinese, characters."""
    han: int = 0
    latin: int = 0
    lengths: dict[int, int] = {}
    """Lower end of a step of length -> texts."""
    items: int = 0
    """In lists of whole numbers, as token ids are."""
    least: float | None = None
    most: float | None = None
    values: Counts | None = {}


class Stats(msgspec.Struct):
    """Of rows."""

    rows: int = 0
    fields: dict[str, FieldStats] = {}

    def count(self, row: Row) -> None:
        """Count a row."""
        self.rows += 1
        for name, value in row.items():
            if name in (ID, META) or value is None:
                continue
            field = self.fields.get(name)
            if field is None:
                field = self.fields[name] = FieldStats()
            field.present += 1
            for text in _texts(value):
                _count_text(field, text)
            if isinstance(value, list) and value and type(value[0]) is int:
                field.items += len(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                field.least = value if field.least is None else min(field.least, value)
                field.most = value if field.most is None else max(field.most, value)
            if field.values is not None:
                _count_value(field, value)

    def add(self, other: Stats) -> None:
        """Count what another has counted, too."""
        self.rows += other.rows
        for name, theirs in other.fields.items():
            ours = self.fields.setdefault(name, FieldStats())
            ours.present += theirs.present
            ours.characters += theirs.characters
            ours.words += theirs.words
            ours.han += theirs.han
            ours.latin += theirs.latin
            ours.items += theirs.items
            for length, count in theirs.lengths.items():
                ours.lengths[length] = ours.lengths.get(length, 0) + count
            bounds = [one for one in (ours.least, theirs.least) if one is not None]
            ours.least = min(bounds, default=None)
            bounds = [one for one in (ours.most, theirs.most) if one is not None]
            ours.most = max(bounds, default=None)
            ours.values = _added(ours.values, theirs.values)

    def to_dict(self) -> dict[str, Any]:
        """Return it as a manifest has it: ``{"rows", "fields": {name: {"present", "characters",
        "words", "han", "latin", "length": {"least", "p5", …, "most"}, "items",
        "values"}}}``, without what a
        field has none of."""
        return {
            "rows": self.rows,
            "fields": {name: _told(field) for name, field in sorted(self.fields.items())},
        }


def row_hash(row: Row) -> bytes:
    """Return HASH_BYTES that are the same of rows with the same fields."""
    fields = {name: value for name, value in row.items() if name not in (ID, META)}
    encoded = msgspec.json.encode(fields, order="sorted")
    return hashlib.blake2b(encoded, digest_size=HASH_BYTES).digest()


def count_duplicates(files: Iterable[Path]) -> int:
    """Return how many rows are the same as another before them, by files of `row_hash`."""
    import numpy as np

    parts = [np.memmap(path, np.uint64, "r") for path in files if path.stat().st_size]
    passes = -(-sum(map(len, parts)) // HASHES_A_PASS)
    count = 0
    for number in range(passes):  # the same hashes meet in the same pass
        some = np.concatenate([part[part % passes == number] for part in parts])
        count += len(some) - len(np.unique(some))
    return count


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list):
        turns = (one.get("content") for one in value if isinstance(one, dict))
        return [text for text in turns if isinstance(text, str)]
    return ()


def _count_text(field: FieldStats, text: str) -> None:
    length = len(text)
    field.characters += length
    shift = max(0, length.bit_length() - _EXACT_BITS)
    step = (length >> shift) << shift
    field.lengths[step] = field.lengths.get(step, 0) + 1
    field.latin += len(text.encode("ascii", "ignore").translate(None, _NO_LETTERS))
    han = 0
    if not text.isascii():
        han = sum(map(len, _HAN.findall(text)))
        field.latin += sum(map(len, _LATIN.findall(text)))
    field.han += han
    field.words += han + len((_HAN.sub(" ", text) if han else text).split())


def _count_value(field: FieldStats, value: Any) -> None:
    assert field.values is not None
    if isinstance(value, list | dict) or (isinstance(value, str) and len(value) > MAX_VALUE_CHARS):
        field.values = None
        return
    key = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    field.values[key] = field.values.get(key, 0) + 1
    if len(field.values) > MAX_VALUES:
        field.values = None


def _added(ours: Counts | None, theirs: Counts | None) -> Counts | None:
    if ours is None or theirs is None:
        return None
    every = {key: ours.get(key, 0) + theirs.get(key, 0) for key in sorted({*ours, *theirs})}
    return every if len(every) <= MAX_VALUES else None


def _told(field: FieldStats) -> dict[str, Any]:
    told: dict[str, Any] = {"present": field.present}
    if field.lengths:
        told |= {"characters": field.characters, "words": field.words}
        told |= {"han": field.han, "latin": field.latin, "length": _quantiles(field.lengths)}
    if field.items:
        told["items"] = field.items
    if field.least is not None:
        told |= {"least": field.least, "most": field.most}
    if field.values:
        told["values"] = dict(sorted(field.values.items(), key=lambda one: (-one[1], one[0])))
    return told


def _quantiles(lengths: Mapping[int, int]) -> dict[str, int]:
    """Return the least, some quantiles and the most of counted lengths."""
    ordered: Sequence[int] = sorted(lengths)
    total, seen, place = sum(lengths.values()), 0, 0
    found = {"least": ordered[0]}
    for percent in QUANTILES:
        while (seen + lengths[ordered[place]]) * 100 < percent * total:
            seen += lengths[ordered[place]]
            place += 1
        found[f"p{percent}"] = ordered[place]
    return found | {"most": ordered[-1]}
