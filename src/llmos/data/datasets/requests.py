"""What a request to split a dataset, to mix some, or to count who is alike in one may say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmos.data.operators.k_anonymity import AlikeOptions
from llmos.data.pipeline.options import FieldName
from llmos.errors import InvalidRequestError

MAX_PARTS = 20
MAX_INPUTS = 100
MAX_ROWS = 10**10
FILLED_IN = frozenset({"datasets", "names"})
"""Params that are not the client's to give."""
Share = Annotated[float, Field(gt=0, le=1)]
Weight = Annotated[float, Field(gt=0, le=1e9)]


class Request(BaseModel):
    """Part of what every request has."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    seed: int = Field(default=0, ge=0, lt=2**63)


class SplitRequest(Request):
    """A dataset in parts, at random unless ``by``, ``stratify`` or ``time`` names a field."""

    input: str = Field(min_length=1)
    name: str | None = Field(default=None, min_length=1)
    """The parts are called NAME-PART; the dataset's own name unless told."""
    parts: dict[str, Share] = Field(min_length=2, max_length=MAX_PARTS)
    """The share of each, in order; together 1."""
    by: FieldName | None = None
    """Rows with the same value stay together."""
    stratify: FieldName | None = None
    """Each part has the same shares of these labels."""
    time: FieldName | None = None
    """The parts follow one another: numbers, or ISO 8601 times."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if abs(sum(self.parts.values()) - 1) > 1e-6:
            raise ValueError("parts must have shares that are 1 together: train=0.9,test=0.1")
        if sum(one is not None for one in (self.by, self.stratify, self.time)) > 1:
            raise ValueError("a split is either by group, or stratified, or by time")
        return self


class MixRequest(Request):
    """Datasets mixed by weights."""

    name: str = Field(min_length=1)
    inputs: dict[str, Weight] = Field(min_length=1, max_length=MAX_INPUTS)
    rows: int | None = Field(default=None, ge=1, le=MAX_ROWS)
    """Of the new dataset; as many as there can be without one twice, unless told."""
    repeat: bool = False
    """Rows may be there more than once."""
    description: str = Field(default="", max_length=10_000)


class KAnonymityRequest(AlikeOptions):
    """Whether the rows of a dataset are k-anonymous."""

    input: str = Field(min_length=1)


R = TypeVar("R", bound=BaseModel)


def requested(kind: type[R], params: Mapping[str, Any]) -> R:
    """Return a request, checked.

    Raises:
        InvalidRequestError: something is missing, unknown or wrong; the message names it.
    """
    given = {key: value for key, value in params.items() if key not in FILLED_IN}
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part)[:80] for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        told = f"{key}: {message}" if key else message
        raise InvalidRequestError(told, param=key or None) from None
