"""When a cron expression comes due: five fields, read as the wall-clock time of a time zone.

croniter reads the fields. Ours are what is refused, and what happens where clocks are changed: a
time that is left out comes at the end of the gap; one that comes twice counts the first time only,
unless the hours are `*`, so that a run every half an hour stays one.
"""

from __future__ import annotations

import difflib
import functools
import re
import zoneinfo
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from croniter import CroniterBadDateError, CroniterError, croniter

from llmos.errors import InvalidRequestError

ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_FIELD = re.compile(r"(?![hr])[0-9a-z*/,#?-]{1,100}", re.IGNORECASE)
"""Not croniter's h and r, which stand for numbers that it makes up."""


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression in a time zone. Make one with `parse`."""

    expression: str
    timezone: str

    @classmethod
    def parse(cls, expression: str, timezone: str = "UTC") -> Self:
        """Return the cron that two texts stand for.

        Args:
            expression: five fields, or one of ``ALIASES``.
            timezone: a name of the IANA database, such as Asia/Shanghai.

        Raises:
            InvalidRequestError: it is none, it never comes due, or there is no such time zone.
        """
        text = " ".join(expression.split())
        fields = ALIASES.get(text.lower(), text).split(" ")
        if len(fields) != len(FIELDS):
            raise _no_cron(
                f"{expression[:80]!r} is no cron expression: it takes five fields "
                f"({', '.join(FIELDS)}) or one of {', '.join(ALIASES)}"
            )
        for name, field in zip(FIELDS, fields, strict=True):
            alone = " ".join(field if other == name else "*" for other in FIELDS)
            if not _FIELD.fullmatch(field) or not croniter.is_valid(alone):
                raise _no_cron(f"{field[:80]!r} cannot be the {name} of a cron expression")
        _check_timezone(timezone)
        cron = cls(text, timezone)
        try:
            cron.next_after(0.0)
        except CroniterBadDateError:
            raise _no_cron(f"{text!r} never comes due: there is no such day") from None
        except CroniterError as error:
            raise _no_cron(f"{text!r} is no cron expression: {error}") from None
        return cron

    def next_after(self, at: float) -> float:
        """Return the first time after ``at`` that it comes due (both Unix seconds)."""
        fields = ALIASES.get(self.expression.lower(), self.expression)
        is_hourly = "*" in fields.split(" ")[1]
        start = datetime.fromtimestamp(at, zoneinfo.ZoneInfo(self.timezone))
        times = croniter(fields, start)
        while True:
            time: datetime = times.get_next(datetime)
            if is_hourly or not time.fold:
                return time.timestamp()


def _check_timezone(name: str) -> None:
    if name not in _timezones():
        near = difflib.get_close_matches(name[:80], _timezones(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ": use a name such as Europe/Berlin"
        raise InvalidRequestError(f"There is no time zone {name[:80]!r}{hint}", param="timezone")


@functools.cache
def _timezones() -> frozenset[str]:
    return frozenset(zoneinfo.available_timezones())


def _no_cron(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="cron")
