"""When crons come due, against a reading of every minute by another matcher than croniter's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from llmos.errors import InvalidRequestError
from llmos.kernel.cron import ALIASES, Cron

LIMITS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def values(field: str, least: int, most: int) -> set[int]:
    """What a field of numbers, ranges, lists and steps stands for."""
    found: set[int] = set()
    for part in field.split(","):
        span, _, step = part.partition("/")
        first, _, last = (f"{least}-{most}" if span == "*" else span).partition("-")
        end = int(last or (most if step else first))
        found.update(range(int(first), end + 1, int(step or 1)))
    return found


def matches(expression: str, time: datetime) -> bool:
    fields = expression.split(" ")
    minute, hour, day, month, weekday = (
        now in values(field, *limits)
        for field, now, limits in zip(
            fields,
            (time.minute, time.hour, time.day, time.month, time.isoweekday() % 7),
            LIMITS,
            strict=True,
        )
    )
    one_is_free = "*" in (fields[2], fields[4])
    return minute and hour and month and (day and weekday if one_is_free else day or weekday)


def local(text: str, zone: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def times(cron: Cron, at: float, count: int) -> list[str]:
    found = []
    for _ in range(count):
        at = cron.next_after(at)
        found.append(datetime.fromtimestamp(at, ZoneInfo(cron.timezone)).isoformat())
    return found


@pytest.mark.parametrize(
    "expression",
    [
        "*/7 * * * *",
        "0 2 * * *",
        "15,45 6-18/4 * * 1-5",
        "30 23 28-31 * *",
        "0 0 29 2 *",
        "5 4 1 1 *",
        "0 12 13 * 5",
        "59 23 31 12 *",
    ],
)
def test_a_cron_comes_due_at_every_minute_that_matches_and_no_other(expression: str) -> None:
    cron = Cron.parse(expression)
    at = datetime(2027, 12, 30, 22, 0, tzinfo=UTC).timestamp()
    minute = datetime(2027, 12, 30, 22, 1, tzinfo=UTC)
    for _ in range(5):
        following = cron.next_after(at)
        if following - at < 3 * 86400:
            while not matches(expression, minute):
                minute += timedelta(minutes=1)
            assert following == minute.timestamp()
        assert matches(expression, datetime.fromtimestamp(following, UTC))
        assert following > at
        at, minute = following, datetime.fromtimestamp(following, UTC) + timedelta(minutes=1)


def test_seconds_within_a_minute_do_not_bring_the_same_minute_again() -> None:
    cron = Cron.parse("* * * * *")
    assert [cron.next_after(at) for at in (60.0, 60.5, 119.999, 120.0)] == [120, 120, 120, 180]


def test_a_cron_is_read_as_the_wall_clock_of_its_zone() -> None:
    night = Cron.parse("0 2 * * *", "Asia/Shanghai")
    assert times(night, local("2026-11-22T12:00", "Asia/Shanghai"), 2) == [
        "2026-11-23T02:00:00+08:00",
        "2026-11-24T02:00:00+08:00",
    ]


@pytest.mark.parametrize("name", ALIASES)
def test_a_name_is_its_five_fields(name: str) -> None:
    named, spelled = Cron.parse(name.upper()), Cron.parse(ALIASES[name])
    at = 0.0
    for _ in range(3):
        assert named.next_after(at) == spelled.next_after(at)
        at = named.next_after(at)


# -- where clocks are changed --------------------------------------------------------------------


def test_a_time_that_is_left_out_comes_at_the_end_of_the_gap() -> None:
    cron = Cron.parse("0,30 2 * * *", "Europe/Berlin")
    assert times(cron, local("2026-03-28T12:00", "Europe/Berlin"), 3) == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_a_time_that_comes_twice_counts_once() -> None:
    cron = Cron.parse("30 2 * * *", "Europe/Berlin")
    assert times(cron, local("2026-10-24T12:00", "Europe/Berlin"), 2) == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
    ]


@pytest.mark.parametrize(
    ("zone", "around"),
    [
        ("Europe/Berlin", "2026-03-29T00:00"),
        ("Europe/Berlin", "2026-10-25T00:00"),
        ("Europe/Dublin", "2026-03-29T00:00"),
        ("Europe/Dublin", "2026-10-25T00:00"),
        ("America/New_York", "2026-11-01T00:00"),
        ("Australia/Lord_Howe", "2026-04-05T00:00"),
        ("Australia/Lord_Howe", "2026-10-04T00:00"),
        ("Africa/Casablanca", "2026-02-15T00:00"),
    ],
)
def test_what_runs_all_day_goes_on_through_a_change_of_clocks(zone: str, around: str) -> None:
    cron, at = Cron.parse("*/15 * * * *", zone), local(around, zone)
    for _ in range(24):
        following = cron.next_after(at)
        assert following - at == 900
        at = following


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("expression", ["0 0 31 2 *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_a_cron_that_never_comes_due_is_refused(expression: str) -> None:
    with pytest.raises(InvalidRequestError, match="never comes due") as refused:
        Cron.parse(expression)
    assert refused.value.param == "cron"


def test_a_day_of_the_week_makes_up_for_a_day_that_never_comes() -> None:
    assert Cron.parse("0 0 31 2 1").next_after(0.0) > 0


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "@reboot",
        "@every 5m",
        "* * * *",
        "* * * * * *",
        "* * * * * * *",
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * 32 * *",
        "* * * 13 *",
        "* * * * 8",
        "-1 * * * *",
        "*/0 * * * *",
        "1-a * * * *",
        "R * * * *",
        "r(1-5) * * * *",
        "H H * * *",
        "* * * foo *",
        "0 0 * * mon#6",
        "a" * 1000,
        "٣ * * * *",
        "0 0 * * *; rm -rf",
        "1,,2 * * * *",
        "/5 * * * *",
        "0 0 L-3 * *",
        "?? * * * *",
        "0 0 1w,2 * *",
        "%s * * * *",
    ],
)
def test_what_is_no_cron_is_refused_by_name(expression: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        Cron.parse(expression)
    assert refused.value.param == "cron"


def test_the_field_that_is_wrong_is_named() -> None:
    for expression, says in {
        "0 24 * * *": "'24' cannot be the hour",
        "0 0 * foo *": "'foo' cannot be the month",
        "0 0 * * 8": "'8' cannot be the day of week",
    }.items():
        with pytest.raises(InvalidRequestError, match=says):
            Cron.parse(expression)


@pytest.mark.parametrize(
    "zone", ["", "Mars/Base", "../../etc/passwd", "/etc/localtime", "Asia", "asia/shanghai", "\x00"]
)
def test_a_time_zone_is_one_of_those_there_are(zone: str) -> None:
    with pytest.raises(InvalidRequestError, match="no time zone") as refused:
        Cron.parse("0 0 * * *", zone)
    assert refused.value.param == "timezone"


def test_a_misspelt_zone_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidRequestError, match="Asia/Shanghai"):
        Cron.parse("0 0 * * *", "Asia/Shangai")
