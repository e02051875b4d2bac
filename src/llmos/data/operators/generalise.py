"""The operator that makes values coarser, so that more records are alike."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from llmos.data.pipeline.operator import Operator, Options
from llmos.data.pipeline.options import Columns, FieldName
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

MAX_DIGITS = 300
"""Of a number before and behind its point."""
_DATE = re.compile(r"\s*(\d{4})(?!\d)(?:\s*[-/.年]\s*(\d{1,2})(?!\d))?")


class GeneraliseOptions(Options):
    field: FieldName = Field(default="text", description="which field it is about")
    width: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="of the ranges that numbers become"
    )
    keep: int | None = Field(
        default=None, ge=0, description="characters that stay of a text; the others become *"
    )
    date: Literal["month", "year"] | None = Field(
        default=None, description="what stays of a date: 1990-05-17, 1990/5/17, 1990年5月17日"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(one is not None for one in (self.width, self.keep, self.date)) != 1:
            raise ValueError("set one of width, keep and date")
        return self


class Generalise(Operator[GeneraliseOptions]):
    """Makes the values of a field coarser, so that more records are alike in it: of numbers ranges,
    of texts their first characters, of dates their month or year.

    >>> tried(Generalise(width=10), "37", "-2")
    ['30 to 39', '-10 to -1']
    >>> tried(Generalise(keep=3), "10115", "上海市")
    ['101**', '上海市']
    >>> tried(Generalise(date="month"), "1990-05-17", "1990年5月17日")
    ['1990-05', '1990-05']
    """

    name = "generalise"
    adds = ()
    group = "anonymise"
    options_type = GeneraliseOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        name = self.options.field
        for record in records:
            value = record.fields.get(name)
            if value is not None:
                record.fields[name] = self.coarser(value)
            yield record

    def columns_after(self, columns: Columns) -> Columns:
        """Return the columns, of which one is text then."""
        return {**columns, self.options.field: "string"}

    def coarser(self, value: Any) -> str:
        """Return what becomes of a value. Raises DataError: it is of another kind."""
        options = self.options
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise DataError(f"{options.field!r} is neither a text nor a number")
        if options.width is not None:
            return _range(value, options.width, options.field)
        text = str(value)
        if options.keep is not None:
            return text[: options.keep] + "*" * len(text[options.keep :])
        found = _DATE.match(text)
        if found is None or (options.date == "month" and not found[2]):
            raise DataError(f"{options.field!r} is no date that begins with its year and month")
        return found[1] if options.date == "year" else f"{found[1]}-{int(found[2]):02}"


def _range(value: str | int | float, width: float, field: str) -> str:
    """Return the range of a number: whole ones from its first to its last, others ``1.5 to below
    2``. Raises DataError: it is no number."""
    try:
        decimal = Decimal(str(value).strip())
    except InvalidOperation:
        decimal = Decimal("NaN")
    if not decimal.is_finite() or abs(decimal.adjusted()) > MAX_DIGITS:
        raise DataError(f"{field!r} is no number")
    number = Fraction(decimal)
    step = Fraction(str(width))
    low = math.floor(number / step) * step
    if number.denominator == step.denominator == 1:
        return f"{low} to {low + step - 1}" if step > 1 else str(low)
    return f"{_shown(low)} to below {_shown(low + step)}"


def _shown(number: Fraction) -> str:
    return f"{float(number):.15g}"
