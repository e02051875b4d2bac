"""What an operator is: a generator over records, with options that pydantic checks.

Those of llmos are in `llmos.data.operators`. A plugin adds its own by the hook ``llmos_operators``.
An operator's docstring says in its first line what it does, and ends with an example, which is its
doctest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from llmos.data.pipeline.asking import Ask, nobody
from llmos.data.pipeline.options import Columns, TextField, added_fields
from llmos.data.pipeline.record import Record

if TYPE_CHECKING:
    from llmos.data.pipeline.clusters import Entries

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
MAX_DATASETS = 20
MAX_GROUP_VALUES = 100


class Options(BaseModel):
    """An operator's options; those of one without any."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TextOptions(Options):
    """Options of an operator that reads or changes one text."""

    field: TextField = Field(default="text", description="which field it is about")


O_co = TypeVar("O_co", bound=Options, covariant=True)


class Operator(ABC, Generic[O_co]):
    """Reads records and yields them, changed or with a ``dropped_reason``.

    It is called with some of a shard's records at a time, and yields what becomes of one before it
    takes the next. A record that it takes and does not yield is dropped. One at which it raises is
    rejected, and it is called again with the rest. It must not depend on records before.

    Args:
        seed: of the pipeline, for what is drawn by chance.
        options: as ``options_type`` has them.

    Attributes:
        ask: of models that the server serves, where the operator is at work in a job.

    Raises:
        pydantic.ValidationError: they are not.
    """

    name: ClassVar[str]
    group: ClassVar[Group]
    options_type: ClassVar[type[Options]] = Options
    needs: ClassVar[dict[str, str]] = {}
    """Modules that it imports and llmos does not need -> the packages they come from."""
    reads: ClassVar[dict[str, tuple[str, ...]]] = {}
    """Options that name a model of the library -> those of its files that it reads, the first of
    which it must have."""
    adds: ClassVar[tuple[str, ...] | None] = None
    """Fields that records get beside those that a `NewField` names, and no field goes; None: only
    the rows tell which they have then, and no step behind it is checked before a job runs."""
    models: Mapping[str, Path] = MappingProxyType({})
    """Where those files lie, by the model that an option names: set before it is called."""

    def __init__(self, seed: int = 0, **options: Any) -> None:
        self.seed = seed
        self.ask: Ask = nobody
        self.options: O_co = self.options_type(**options)  # type: ignore[assignment]

    @abstractmethod
    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        """Yield what becomes of each record."""

    def columns_after(self, columns: Columns) -> Columns | None:
        """Return the columns of what it yields of records with some; None: only the rows tell."""
        if self.adds is None:
            return None
        return {**columns, **dict.fromkeys([*self.adds, *added_fields(self.options)], "")}


T_co = TypeVar("T_co", bound=TextOptions, covariant=True)


class Mapper(Operator[T_co]):
    """Changes a text by itself."""

    adds = ()
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

    adds = ()
    options_type: ClassVar[type[Options]] = TextOptions
    group = "filter"

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            record.dropped_reason = self.reason(record.text(self.options.field))
            yield record

    @abstractmethod
    def reason(self, text: str) -> str | None:
        """Return why a text is to go, None where it stays."""


class Batcher(Operator[O_co]):
    """Takes some records at once, as one does that asks a model.

    Where `batch` raises, it is called again with fewer, until the record is found that is to be
    rejected: it must not change any record before nothing can go wrong any more.
    """

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        yield from self.batch(list(records))

    @abstractmethod
    def batch(self, records: list[Record]) -> list[Record]:
        """Return what becomes of records, in order. One that is not returned is dropped."""


class Collective(Operator[O_co]):
    """Goes by what records have in common in the whole dataset: a stage of a job ends with it."""

    adds = ()
    group: ClassVar[Group] = "deduplicate"

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        yield from records

    @abstractmethod
    def keys(self, record: Record) -> Sequence[bytes]:
        """Return what a record may have in common with others, each of KEY_BYTES."""


class Comparer(Collective[O_co]):
    """Drops all but one of the records that are alike, in the whole dataset.

    Those that have a key in common are alike, and so is who is alike to one of them: all together
    are a cluster, of which one record stays. One without keys is alike to none.
    """

    def weight(self, record: Record) -> int:
        """Return what decides who stays of a cluster: the greatest, of equal ones the first."""
        return 0

    def reason(self, kept: str) -> str:
        """Return why a record goes of whose cluster the one with the id ``kept`` stays."""
        return f"duplicate: of {kept}"


class GroupSize(NamedTuple):
    """Of records that have a key in common: how many they are, and how many different values they
    have, told up to MAX_GROUP_VALUES."""

    rows: int
    values: int


class Grouper(Collective[O_co]):
    """Goes by how many records have the same key, of which each has one, in the whole dataset, and
    how many different values those have."""

    @property
    @abstractmethod
    def fields(self) -> Sequence[str]:
        """Those that it goes by: some record must have something in each."""

    @property
    @abstractmethod
    def least(self) -> GroupSize:
        """What is smaller in either is too small; values are MAX_GROUP_VALUES at most."""

    def value(self, record: Record) -> int:
        """Return a number that is the same of equal values, above 0; 0 where there is none."""
        return 0

    @abstractmethod
    def settle(self, record: Record, group: GroupSize, together: GroupSize) -> None:
        """Change a record whose group is too small, or say why it is to go.

        Args:
            together: the size of all groups that are too small, as one.
        """


class Trimmer(Collective[O_co]):
    """Takes out of records the pieces that are in one before, or further up in the same, in the
    whole dataset.

    `keys` are those of the pieces of a record, in order; the first of all with a key stays.
    """

    @abstractmethod
    def trim(self, record: Record, repeated: Collection[int]) -> None:
        """Take pieces out of a record, or say why it is to go and leave it as it is.

        Args:
            repeated: their places among its `keys`, one at least.
        """


class WindowTrimmer(Trimmer[T_co]):
    """Takes windows out of texts, all of one length, wherever they begin: places are characters,
    of several texts of a record one behind the other.

    `keys` need be of some windows only, such that every two windows that are the same hold, at the
    same character, the same key.
    """

    @property
    @abstractmethod
    def length(self) -> int:
        """Of a window, in characters."""

    @abstractmethod
    def windows(self, record: Record, shared: Collection[int] | None) -> Entries:
        """Return the hashes and places of windows, in order.

        Args:
            shared: places among the record's `keys`; the windows are those that hold one. None: all
                windows.
        """


class ConsultingOptions(TextOptions):
    """Options of an operator that looks things up in other datasets."""

    datasets: list[str] = Field(
        default=[],
        max_length=MAX_DATASETS,
        description="names, NAME or NAME:3, to look things up in",
    )


C_co = TypeVar("C_co", bound=ConsultingOptions, covariant=True)


class Consulting(Operator[C_co]):
    """Looks things up in the datasets that its options name, which a job reads once for it."""

    adds = ()
    options_type: ClassVar[type[Options]] = ConsultingOptions

    @abstractmethod
    def build_index(self, datasets: Mapping[str, Iterator[Record]], folder: Path) -> None:
        """Write what is to be known of datasets into a folder, in bounded memory.

        Args:
            datasets: the records of each, by its name and version, in the order of the option.

        Raises:
            DataError: it cannot be known of them.
        """

    @abstractmethod
    def use_index(self, folder: Path) -> None:
        """Use what `build_index` has written there from now on."""

    def wrong_dataset(self, columns: Columns, shown: str) -> str | None:
        """Return why it cannot look things up in a dataset with such columns; None: it can."""
        return None
