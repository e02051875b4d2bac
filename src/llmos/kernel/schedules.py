"""Schedules: what is run again and again by a cron, and when each comes due next. Durable.

What runs is a pipeline, which is checked and started elsewhere. A schedule whose time passed while
no server ran starts once when one does. It does not start while its last run is still going on:
that turn is left out. A run may do what the key that made the schedule may, as long as that lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from llmos.errors import ConflictError, LlmosError, NotFoundError
from llmos.kernel.cron import Cron
from llmos.kernel.job_rows import MAX_ID
from llmos.kernel.transitions import KERNEL_ACTOR, Audit
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import runs, schedules

MAX_SCHEDULES = 100
"""Of one owner."""
LONGEST_WAIT_S = 30.0
"""How late a schedule is at most when the machine's clock was set ahead."""
RETRY_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One row of the schedules table. Times are Unix seconds."""

    id: int
    name: str
    cron: str
    timezone: str
    pipeline: dict[str, Any]
    next_at: float
    last_at: float | None
    """When it last started a run."""
    last_error: str | None
    """Why its last turn started none; None when it did."""
    key_id: str
    owner: str
    created_at: float


Begin = Callable[[Schedule], Awaitable[int]]
"""Starts a run of a schedule and returns its id; the run's row names the schedule, and is written
before this returns. Raises LlmosError where it cannot be."""


class Schedules:
    """Keeps schedules, and between `start` and `stop` runs what is due. Belongs to one event loop.

    Args:
        clock: Unix seconds.
        begin: starts a run.
        audit: called in the transaction of each change, see `transitions.Audit`.
    """

    def __init__(
        self, db: Database, clock: Callable[[], float], begin: Begin, *, audit: Audit | None = None
    ) -> None:
        self._db = db
        self._clock = clock
        self._begin = begin
        self._audit = audit
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._looked_at = math.inf
        """When it was last looked through what is due (Unix seconds)."""

    # -- for users -------------------------------------------------------------------------------

    async def add(
        self, cron: Cron, pipeline: dict[str, Any], *, name: str, actor: Actor
    ) -> Schedule:
        """Keep a schedule of a pipeline that is known to be good.

        Raises:
            ConflictError: the owner has as many as one may have.
        """
        now = self._clock()
        row = {
            "name": name,
            "cron": cron.expression,
            "timezone": cron.timezone,
            "pipeline": pipeline,
            "next_at": cron.next_after(now),
            "key_id": actor.id,
            "owner": actor.owner,
            "created_at": now,
        }

        def write(connection: Connection) -> Schedule:
            mine = select(func.count()).select_from(schedules)
            mine = mine.where(schedules.c.owner == actor.owner)
            if (connection.scalar(mine) or 0) >= MAX_SCHEDULES:
                raise ConflictError(
                    f"There are {MAX_SCHEDULES} schedules of yours, which is all one may have: "
                    "remove some with `llmos schedule rm`."
                )
            made = connection.execute(insert(schedules).values(row).returning(schedules))
            schedule = _schedule(made.mappings().one())
            detail = {"name": name, "cron": cron.expression, "timezone": cron.timezone}
            self._audited(connection, actor.id, "schedule.add", schedule.id, detail)
            return schedule

        schedule = await self._db.write(write)
        self._wake.set()
        return schedule

    async def get(self, schedule_id: int) -> Schedule:
        """Return the schedule. Raises NotFoundError."""
        return await self._db.read(lambda connection: _get(connection, schedule_id))

    async def of_owner(self, owner: str | None) -> list[Schedule]:
        """Return the schedules of an owner, or of everyone, the next to start first."""
        query = select(schedules).order_by(schedules.c.next_at, schedules.c.id)
        if owner is not None:
            query = query.where(schedules.c.owner == owner)
        return await self._db.read(lambda connection: _schedules(connection, query))

    async def remove(self, schedule_id: int, actor: str) -> Schedule:
        """Remove a schedule and return what it was; a run of it that goes on is not stopped.

        Raises:
            NotFoundError: there is no such schedule.
        """

        def write(connection: Connection) -> Schedule:
            schedule = _get(connection, schedule_id)
            connection.execute(delete(schedules).where(schedules.c.id == schedule_id))
            self._audited(
                connection, actor, "schedule.remove", schedule_id, {"name": schedule.name}
            )
            return schedule

        return await self._db.write(write)

    # -- running them ----------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to run what is due."""
        self._loop = asyncio.create_task(self._run(), name="schedules")

    async def stop(self) -> None:
        """Start nothing more. A start under way is either whole or not: see `step`."""
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
            self._loop = None

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wait_s = await self.step()
            except Exception:  # this loop's top: what failed now is tried again
                log.exception("the schedules could not be looked through")
                wait_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):  # wait_for can lose a cancellation
                    await self._wake.wait()

    async def step(self) -> float:
        """Start what is due, each once. Return the seconds after which to look again.

        A crash between a run's start and the note of it here starts no second one: a run of this
        schedule from after the time it was due is the one.
        """
        now = self._clock()
        query = select(schedules).order_by(schedules.c.next_at)
        if now >= self._looked_at:  # else it is the first time, or the clock was set back
            query = query.where(schedules.c.next_at <= now)
        self._looked_at = now
        for schedule in await self._db.read(lambda connection: _schedules(connection, query)):
            look = self._turn if schedule.next_at <= now else self._put_right
            try:
                await look(schedule)
            except Exception:  # one schedule's top: the others are looked at, this one again
                log.exception("schedule %d could not be looked at", schedule.id)
        soonest = select(func.min(schedules.c.next_at)).where(schedules.c.next_at > now)
        next_at = await self._db.read(lambda connection: connection.scalar(soonest))
        wait_s = LONGEST_WAIT_S if next_at is None else next_at - self._clock()
        return min(max(wait_s, 0.0), LONGEST_WAIT_S)

    async def _put_right(self, schedule: Schedule) -> None:
        """Bring a schedule forward that was to come due when the clock, which ran ahead, said."""
        next_at = Cron(schedule.cron, schedule.timezone).next_after(self._clock())
        if next_at < schedule.next_at:
            this = update(schedules).where(schedules.c.id == schedule.id)
            await self._db.write(
                lambda connection: connection.execute(this.values(next_at=next_at))
            )

    async def _turn(self, schedule: Schedule) -> None:
        """Start a run of a schedule that is due, unless one goes on, and set its next time."""
        last = await self._db.read(lambda connection: _last_run(connection, schedule.id))
        error: str | None = None
        if last is not None and schedule.next_at <= last["created_at"] <= self._clock():
            run_id = last["id"]
        elif last is not None and last["state"] == "running":
            run_id, error = None, f"left out: run {last['id']} was still going on"
        else:
            run_id, error = await self._begun(schedule)
        await self._db.write(lambda connection: self._advance(connection, schedule, run_id, error))

    async def _begun(self, schedule: Schedule) -> tuple[int | None, str | None]:
        """Start a run; return its id, or why there is none."""
        try:
            return await self._begin(schedule), None
        except LlmosError as error:
            if error.message != schedule.last_error:
                log.warning("schedule %d could not start a run: %s", schedule.id, error)
            return None, error.message
        except Exception:  # a start's top: the next turn tries again
            log.exception("schedule %d could not start a run", schedule.id)
            return None, "an internal error, which the server's log tells of"

    def _advance(
        self, connection: Connection, schedule: Schedule, run_id: int | None, error: str | None
    ) -> None:
        now = self._clock()
        values: dict[str, Any] = {"last_error": error}
        values["next_at"] = Cron(schedule.cron, schedule.timezone).next_after(now)
        if run_id is not None:
            values["last_at"] = now
        done = connection.execute(
            update(schedules).where(schedules.c.id == schedule.id).values(values)
        )
        is_news = error is None or error != schedule.last_error
        if done.rowcount and is_news:  # else it was removed meanwhile, or waits as before
            detail = {"run": run_id} if error is None else {"error": error}
            self._audited(connection, KERNEL_ACTOR, "schedule.turn", schedule.id, detail)

    def _audited(
        self,
        connection: Connection,
        actor: str,
        action: str,
        schedule_id: int,
        detail: dict[str, Any],
    ) -> None:
        if self._audit is not None:
            object = f"schedule:{schedule_id}"
            self._audit(connection, actor, action, object, detail, self._clock())


def _get(connection: Connection, schedule_id: int) -> Schedule:
    query = select(schedules).where(schedules.c.id == min(schedule_id, MAX_ID))
    found = _schedules(connection, query)
    if not found:
        raise NotFoundError(
            f"There is no schedule {schedule_id}: `llmos schedule list` shows those there are."
        )
    return found[0]


def _schedules(connection: Connection, query: Any) -> list[Schedule]:
    return [_schedule(row) for row in connection.execute(query).mappings()]


def _schedule(row: RowMapping) -> Schedule:
    return Schedule(**row)


def _last_run(connection: Connection, schedule_id: int) -> RowMapping | None:
    query = (
        select(runs.c.id, runs.c.state, runs.c.created_at)
        .where(runs.c.schedule_id == schedule_id)
        .order_by(runs.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).mappings().first()
