from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import insert, update

from llmos.errors import ConflictError, DataError, NotFoundError
from llmos.kernel.cron import Cron
from llmos.kernel.schedules import LONGEST_WAIT_S, MAX_SCHEDULES, Schedule, Schedules
from llmos.security.actors import Actor
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import runs
from llmos.storage.schema import schedules as table

HOUR = 3600.0
ME = Actor("key-1", "o", "user")
HOURLY = Cron.parse("@hourly")
PIPELINE: dict[str, Any] = {"name": "p", "steps": {"a": {"kind": "train"}}}


@dataclass
class Runner:
    """Starts runs as rows, and ends them when told."""

    database: MemoryDatabase
    clock: Any
    refusal: Exception | None = None
    meanwhile: Callable[[Schedule], Awaitable[Any]] | None = None
    started: list[int] = field(default_factory=list)

    async def begin(self, schedule: Schedule) -> int:
        if self.refusal is not None:
            raise self.refusal
        if self.meanwhile is not None:
            await self.meanwhile(schedule)
        row = {
            "name": schedule.name,
            "pipeline": schedule.pipeline,
            "state": "running",
            "schedule_id": schedule.id,
            "actor": {},
            "owner": schedule.owner,
            "created_at": self.clock.now,
        }
        made = self.database.write_sync(lambda c: c.execute(insert(runs).values(row)))
        self.started.append(schedule.id)
        return int(made.inserted_primary_key[0])

    def end_all(self) -> None:
        self.database.write_sync(lambda c: c.execute(update(runs).values(state="succeeded")))


@pytest.fixture
def runner(database: MemoryDatabase, clock: Any) -> Runner:
    clock.now = 10 * HOUR + 60.0
    return Runner(database, clock)


@pytest.fixture
def schedules(
    database: MemoryDatabase, clock: Any, runner: Runner, audited: list[Any]
) -> Schedules:
    def audit(connection: Any, *event: Any) -> None:
        audited.append(event)

    return Schedules(database, clock, runner.begin, audit=audit)


async def add(schedules: Schedules, cron: Cron = HOURLY, actor: Actor = ME) -> Schedule:
    return await schedules.add(cron, PIPELINE, name="nightly", actor=actor)


async def test_a_schedule_starts_when_it_is_due_and_not_before(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    schedule = await add(schedules)
    assert (schedule.next_at, schedule.last_at) == (11 * HOUR, None)
    assert await schedules.step() == LONGEST_WAIT_S
    clock.now = 11 * HOUR - 5
    assert await schedules.step() == 5.0
    assert runner.started == []
    clock.now = 11 * HOUR
    await schedules.step()
    assert runner.started == [schedule.id]
    after = await schedules.get(schedule.id)
    assert (after.next_at, after.last_at, after.last_error) == (12 * HOUR, 11 * HOUR, None)
    await schedules.step()
    assert runner.started == [schedule.id]


async def test_what_was_missed_while_no_server_ran_is_made_up_for_once(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    schedule = await add(schedules)
    clock.now = 100 * HOUR + 1800
    await schedules.step()
    await schedules.step()
    assert runner.started == [schedule.id]
    assert (await schedules.get(schedule.id)).next_at == 101 * HOUR


async def test_a_turn_is_left_out_while_the_last_run_goes_on(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    schedule = await add(schedules)
    for hour in (11, 12, 13):
        clock.now = hour * HOUR
        await schedules.step()
    assert runner.started == [schedule.id]
    left_out = await schedules.get(schedule.id)
    assert left_out.last_error == "left out: run 1 was still going on"
    assert (left_out.last_at, left_out.next_at) == (11 * HOUR, 14 * HOUR)
    runner.end_all()
    clock.now = 14 * HOUR
    await schedules.step()
    assert runner.started == [schedule.id, schedule.id]
    assert (await schedules.get(schedule.id)).last_error is None


async def test_a_crash_between_the_start_and_its_note_starts_no_second_run(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    schedule = await add(schedules)
    clock.now = 11 * HOUR + 1
    await runner.begin(schedule)  # and the server is killed
    runner.end_all()
    clock.now = 11 * HOUR + 30
    await schedules.step()
    assert runner.started == [schedule.id]
    assert (await schedules.get(schedule.id)).next_at == 12 * HOUR


async def test_why_no_run_starts_is_written_down_once(
    schedules: Schedules, runner: Runner, clock: Any, audited: list[Any]
) -> None:
    await add(schedules)
    for hour, reason in ((11, "1 of 5 rows"), (12, "1 of 5 rows"), (13, "2 of 5 rows")):
        runner.refusal = DataError(reason)
        clock.now = hour * HOUR
        await schedules.step()
    turns = [event[3]["error"] for event in audited if event[1] == "schedule.turn"]
    assert turns == ["1 of 5 rows", "2 of 5 rows"]


async def test_a_run_that_cannot_be_started_says_why_and_the_next_turn_tries_again(
    schedules: Schedules, runner: Runner, clock: Any, audited: list[Any]
) -> None:
    schedule = await add(schedules)
    other = await add(schedules)
    runner.refusal = DataError("the data is gone")
    clock.now = 11 * HOUR
    await schedules.step()
    failed = await schedules.get(schedule.id)
    assert (failed.last_error, failed.last_at) == ("the data is gone", None)
    assert failed.next_at == 12 * HOUR
    runner.refusal = None
    clock.now = 12 * HOUR
    await schedules.step()
    assert runner.started == [schedule.id, other.id]
    assert (await schedules.get(schedule.id)).last_error is None
    turns = [event[3] for event in audited if event[1] == "schedule.turn"]
    assert turns[0] == {"error": "the data is gone"}
    assert turns[2] == {"run": 1}


async def test_one_that_breaks_leaves_the_others_their_turn_and_has_its_next_one(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    broken, good = await add(schedules), await add(schedules)

    async def fail(schedule: Schedule) -> None:
        if schedule.id == broken.id:
            raise ZeroDivisionError

    runner.meanwhile = fail
    clock.now = 11 * HOUR
    assert await schedules.step() == LONGEST_WAIT_S
    assert runner.started == [good.id]
    after = await schedules.get(broken.id)
    assert (after.last_at, after.next_at) == (None, 12 * HOUR)
    assert after.last_error == "an internal error, which the server's log tells of"


async def test_one_whose_time_cannot_be_told_holds_up_no_other(
    schedules: Schedules, runner: Runner, clock: Any, database: MemoryDatabase
) -> None:
    gone, good = await add(schedules), await add(schedules)
    zone = update(table).where(table.c.id == gone.id).values(timezone="Nowhere/Gone")
    database.write_sync(lambda connection: connection.execute(zone))
    clock.now = 11 * HOUR
    for _ in range(2):
        assert await schedules.step() == LONGEST_WAIT_S  # not again without a rest
        runner.end_all()
    assert runner.started == [gone.id, good.id]


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_clock_that_ran_ahead_and_is_put_right_keeps_no_schedule_waiting(
    schedules: Schedules, runner: Runner, clock: Any, database: MemoryDatabase, restarted: bool
) -> None:
    schedule = await add(schedules)
    right, clock.now = clock.now, clock.now + 365 * 24 * HOUR
    await schedules.step()
    runner.end_all()
    assert (await schedules.get(schedule.id)).next_at > 365 * 24 * HOUR
    if restarted:
        schedules = Schedules(database, clock, runner.begin)
    for number, hour in enumerate((11, 12), start=2):
        clock.now = max(right, hour * HOUR - 5)
        assert await schedules.step() == 5.0
        clock.now = hour * HOUR
        await schedules.step()
        assert runner.started == [schedule.id] * number
        runner.end_all()


async def test_each_schedule_is_its_owners_and_numbers_are_not_given_out_again(
    schedules: Schedules, audited: list[Any]
) -> None:
    mine = await add(schedules)
    theirs = await add(schedules, Cron.parse("@daily"), Actor("key-2", "p", "user"))
    assert [s.id for s in await schedules.of_owner("o")] == [mine.id]
    assert [s.id for s in await schedules.of_owner(None)] == [mine.id, theirs.id]
    assert mine.key_id == "key-1"
    await schedules.remove(theirs.id, "key-2")
    with pytest.raises(NotFoundError, match=f"no schedule {theirs.id}"):
        await schedules.get(theirs.id)
    with pytest.raises(NotFoundError):
        await schedules.remove(theirs.id, "key-2")
    assert (await add(schedules)).id == theirs.id + 1
    changes = [(event[0], event[1], event[2]) for event in audited]
    assert changes[:3] == [
        ("key-1", "schedule.add", "schedule:1"),
        ("key-2", "schedule.add", "schedule:2"),
        ("key-2", "schedule.remove", "schedule:2"),
    ]


async def test_a_schedule_that_was_removed_while_it_started_stays_removed(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    schedule = await add(schedules)
    runner.meanwhile = lambda schedule: schedules.remove(schedule.id, "key-1")
    clock.now = 11 * HOUR
    assert await schedules.step() == LONGEST_WAIT_S
    assert runner.started == [schedule.id]
    assert await schedules.of_owner(None) == []


async def test_an_owner_has_so_many_schedules_and_no_more(schedules: Schedules) -> None:
    for _ in range(MAX_SCHEDULES):
        await add(schedules)
    with pytest.raises(ConflictError, match=f"{MAX_SCHEDULES} schedules"):
        await add(schedules)
    await add(schedules, actor=Actor("key-2", "p", "user"))


async def test_the_loop_starts_what_was_missed_and_looks_again_when_one_is_added(
    schedules: Schedules, runner: Runner, clock: Any
) -> None:
    await add(schedules)
    clock.now = 12 * HOUR
    await schedules.start()
    try:
        while not runner.started:
            await schedules.get(1)
    finally:
        await schedules.stop()
    assert runner.started == [1]
