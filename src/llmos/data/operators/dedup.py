"""Operators that keep one of several records that are the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from pydantic import Field

from llmos.data.pipeline.operator import KEY_BYTES, Comparer, Options
from llmos.data.pipeline.options import FieldName
from llmos.data.pipeline.record import Record
from llmos.data.text_pieces import loosened
from llmos.errors import DataError


class ExactDedupOptions(Options):
    fields: list[FieldName] = Field(
        default=["text"], description="which must be the same; none: all fields"
    )
    loose: bool = Field(
        default=False, description="letters' case, width, spaces and punctuation do not matter"
    )


class ExactDedup(Comparer[ExactDedupOptions]):
    """Drops records whose text is the same as that of one before, in the whole dataset.

    >>> tried(ExactDedup(), "你好", "Hello", "你好", "hello!")
    ['你好', 'Hello', 'dropped: duplicate: of 1', 'hello!']
    >>> tried(ExactDedup(loose=True), "Hello", "hello!", "ＨＥＬＬＯ")
    ['Hello', 'dropped: duplicate: of 1', 'dropped: duplicate: of 1']
    """

    name = "exact_dedup"
    options_type = ExactDedupOptions

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return a hash of what must be the same. Raises DataError where there is none of it."""
        names = self.options.fields or sorted(record.fields)
        values = [record.fields.get(name) for name in names]
        if all(value is None for value in values):
            raise DataError(f"there is nothing in {', '.join(names)}: set `fields`")
        if self.options.loose:
            values = [loosened(value) if isinstance(value, str) else value for value in values]
        encoded = msgspec.json.encode(values, order="sorted")
        return (hashlib.blake2b(encoded, digest_size=KEY_BYTES).digest(),)
