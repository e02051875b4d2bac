"""What an operator is: a generator over records, with options that pydantic checks.

Those of llmos are in `llmos.data.operators`. A plugin adds its own by the hook ``llmos_operators``.
An operator's docstring says in its first line what it does, and ends with an example, which is its
doctest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from llmos.data.pipeline.record import Record

Group = Literal[
    "normalise",
    "filter",
    "deduplicate",
    "anonymise",
    "segment",
    "augment",
    "synthesise",
    "shape",
]
KEY_BYTES = 16


class Options(BaseModel):
    """An operator's options; those of one without any."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextOptions(Options):
    """Options of an operator that reads or changes one text."""

    field: str = Field(default="text", min_length=1, description="which field it is about")


O_co = TypeVar("O_co", bound=Options, covariant=True)


class Operator(ABC, Generic[O_co]):
    """Reads records and yields them, changed or with a ``dropped_reason``.

    It is called with some of a shard's records at a time, and yields what becomes of one before it
    takes the next. A record that it takes and does not yield is dropped. One at which it raises is
    rejected, and it is called again with the rest. It must not depend on records before.

    Args:
        seed: of the pipeline, for what is drawn by chance.
        options: as ``options_type`` has them.

    Raises:
        pydantic.ValidationError: they are not.
    """

    name: ClassVar[str]
    group: ClassVar[Group]
    options_type: ClassVar[type[Options]] = Options
    needs: ClassVar[dict[str, str]] = {}
    """Modules that it imports and llmos does not need -> the packages they come from."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.seed = seed
        self.options: O_co = self.options_type(**options)  # type: ignore[assignment]

    @abstractmethod
    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield what becomes of each record."""


T_co = TypeVar("T_co", bound=TextOptions, covariant=True)


class Mapper(Operator[T_co]):
    """Changes a text by itself."""

    options_type: ClassVar[type[Options]] = TextOptions
    group = "normalise"

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            record.change_text(self.options.field, self.change)
            yield record

    @abstractmethod
    def change(self, text: str) -> str:
        """Return the changed text."""


class Filter(Operator[T_co]):
    """Drops records by their text."""

    options_type: ClassVar[type[Options]] = TextOptions
    group = "filter"

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            record.dropped_reason = self.reason(record.text(self.options.field))
            yield record

    @abstractmethod
    def reason(self, text: str) -> str | None:
        """Return why a text is to go, None where it stays."""


class Comparer(Operator[O_co]):
    """Drops all but the first of the records that have the same key, in the whole dataset."""

    group = "deduplicate"

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        yield from records

    @abstractmethod
    def key(self, record: Record) -> bytes:
        """Return KEY_BYTES that stand for what must be there once."""

    def reason(self, kept: str) -> str:
        """Return why a record goes of which the one with the id ``kept`` stays."""
        return f"duplicate: of {kept}"
