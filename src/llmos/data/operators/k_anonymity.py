"""The operator that looks for records which too few others are like."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, Self

import msgspec
from pydantic import Field, model_validator

from llmos.data.pipeline.operator import (
    KEY_BYTES,
    MAX_GROUP_VALUES,
    Grouper,
    GroupSize,
    Options,
)
from llmos.data.pipeline.options import FieldName
from llmos.data.pipeline.record import Record

MAX_FIELDS = 100
MAX_K = 1_000_000


class AlikeOptions(Options):
    """How many must be alike in which fields."""

    fields: list[FieldName] = Field(
        min_length=1,
        max_length=MAX_FIELDS,
        description="quasi-identifiers: what others may know of somebody, as age and postcode",
    )
    k: int = Field(
        default=5, ge=2, le=MAX_K, description="records that must be alike in all of these"
    )
    sensitive: FieldName | None = Field(
        default=None,
        min_length=1,
        description="the field of which records that are alike must not all say the same",
    )
    diversity: int = Field(
        default=2,
        ge=2,
        le=MAX_GROUP_VALUES,
        description="different values of it (l) that records which are alike must have",
    )

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len({*self.fields, self.sensitive}) <= len(self.fields):
            raise ValueError("a field is named twice")
        return self


class KAnonymityOptions(AlikeOptions):
    action: Literal["drop", "suppress", "report"] = Field(
        default="drop",
        description="drop: the records of groups that are too small go; suppress: their "
        "quasi-identifiers are left out; report: they are only counted",
    )


class KAnonymity(Grouper[KAnonymityOptions]):
    """Drops records of which fewer than k are alike in some fields, in the whole dataset, or leaves
    those fields out of them, so that the dataset is k-anonymous (Sweeney 2002).

    With a sensitive field records that are alike must also have some different values of it
    (distinct l-diversity, Machanavajjhala et al. 2007). Values are alike where they are the same;
    nothing is a value of a quasi-identifier like others, and none of the sensitive field. Where so
    few records are to have their fields left out that they are too few for one another, they go.

    >>> ages = {"a": 30, "b": 30, "c": 41, "d": 57}
    >>> def done(**options):
    ...     records = [Record(one, {"age": age}) for one, age in ages.items()]
    ...     return apply([KAnonymity(fields=["age"], k=2, **options)], records)
    >>> [one.id for one in done().records], done().outcome.dropped[0]["reason"]
    (['a', 'b'], 'too few alike: 1')
    >>> [one.fields["age"] for one in done(action="suppress").records]
    [30, 30, None, None]
    """

    name = "k_anonymity"
    group = "anonymise"
    options_type = KAnonymityOptions

    @property
    def fields(self) -> Sequence[str]:
        """The quasi-identifiers, and the sensitive field."""
        sensitive = self.options.sensitive
        return [*self.options.fields, *([sensitive] if sensitive is not None else ())]

    @property
    def least(self) -> GroupSize:
        """k, and l where there is a sensitive field."""
        options = self.options
        return GroupSize(options.k, 0 if options.sensitive is None else options.diversity)

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return a hash of the quasi-identifiers."""
        return (_hash([record.fields.get(name) for name in self.options.fields]),)

    def value(self, record: Record) -> int:
        """Return a hash of what the sensitive field says."""
        sensitive = self.options.sensitive
        value = None if sensitive is None else record.fields.get(sensitive)
        return 0 if value is None else 1 + (int.from_bytes(_hash(value)[:7], "big"))

    def settle(self, record: Record, group: GroupSize, together: GroupSize) -> None:
        """Drop a record, or leave its quasi-identifiers out."""
        options, least = self.options, self.least
        if options.action == "report":
            return
        is_lone = together.rows < least.rows or together.values < least.values
        if options.action == "suppress" and not is_lone:
            record.fields |= {name: None for name in options.fields if name in record.fields}
        elif group.rows < least.rows:
            record.dropped_reason = f"too few alike: {group.rows}"
        else:
            record.dropped_reason = f"too little difference among those alike: {group.values}"


def _hash(value: Any) -> bytes:
    encoded = msgspec.json.encode(value, order="sorted")
    return hashlib.blake2b(encoded, digest_size=KEY_BYTES).digest()
