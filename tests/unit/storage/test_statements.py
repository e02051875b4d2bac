from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from llmos.storage.database import Database
from llmos.storage.schema import job_events, jobs, task_defaults
from llmos.storage.statements import Statement

NEW = {
    "kind": "echo",
    "name": "echo",
    "params": {"text": "你好"},
    "state": "queued",
    "priority": 1,
    "owner": "o",
    "created_at": 1.5,
    "not_before": 0.0,
    "attempt": 0,
    "failures": 0,
    "max_attempts": 3,
    "fence": 0,
    "cancel_requested": True,
    "reserved_bytes": 0,
    "threads": 0,
    "compute_s": 0.0,
}
ADD = Statement(insert(jobs).returning(jobs), sets=tuple(NEW))
FIND = Statement(select(jobs).where(jobs.c.id == bindparam("this_id")))
DEFAULT = Statement(insert(task_defaults), sets=("task", "model", "owner"))
NO_ONES = Statement(
    insert(job_events).returning(job_events.c.id), sets=("job_id", "type", "data", "at", "owner")
)


async def test_rows_are_what_sqlalchemy_would_have_given(database: Database) -> None:
    (made,) = await database.write(lambda connection: ADD.run(connection, NEW))
    assert made["params"] == {"text": "你好"}
    assert made["cancel_requested"] is True
    assert made["progress"] is None

    def both(connection: Connection) -> None:
        query = select(jobs).where(jobs.c.id == made["id"])
        theirs = connection.execute(query).mappings().all()
        assert [dict(row) for row in theirs] == FIND.run(connection, {"this_id": made["id"]})

    await database.read(both)
    assert await database.read(lambda connection: FIND.run(connection, {"this_id": 99})) == []


async def test_values_within_the_statement_and_beside_it_are_both_set(database: Database) -> None:
    raised = Statement(
        update(jobs)
        .where(jobs.c.id == bindparam("this_id"))
        .values(fence=jobs.c.fence + 5, state="running")
        .returning(jobs.c.fence, jobs.c.state, jobs.c.result),
        sets=("result",),
    )
    (made,) = await database.write(lambda connection: ADD.run(connection, NEW))
    given = {"this_id": made["id"], "result": {"n": 1}}
    (row,) = await database.write(lambda connection: raised.run(connection, given))
    assert row == {"fence": 5, "state": "running", "result": {"n": 1}}


async def test_a_statement_without_rows_returns_none(database: Database) -> None:
    row = {"task": "chat", "model": "m", "owner": "o"}
    assert await database.write(lambda connection: DEFAULT.run(connection, row)) == []


async def test_what_the_database_refuses_is_raised_as_sqlalchemy_raises_it(
    database: Database,
) -> None:
    event = {"job_id": 99, "type": "log", "data": {}, "at": 0.0, "owner": "o"}
    with pytest.raises(IntegrityError, match="FOREIGN KEY"):
        await database.write(lambda connection: NO_ONES.run(connection, event))


async def test_a_value_that_is_not_given_is_an_error(database: Database) -> None:
    with pytest.raises(KeyError, match="this_id"):
        await database.read(lambda connection: FIND.run(connection, {}))


def test_what_is_read_in_one_transaction_is_of_one_moment(tmp_path: Path) -> None:
    """The first statement opens it, as with SQLAlchemy's own."""
    with closing(Database.open(tmp_path / "a.db")) as database:
        (made,) = database.write_sync(lambda connection: ADD.run(connection, NEW))

        def twice(connection: Connection) -> tuple[int, int]:
            (before,) = FIND.run(connection, {"this_id": made["id"]})
            database.write_sync(lambda other: other.execute(update(jobs).values(fence=7)))
            (after,) = FIND.run(connection, {"this_id": made["id"]})
            return before["fence"], after["fence"]

        assert database.read_sync(twice) == (0, 0)
        (now,) = database.read_sync(lambda other: FIND.run(other, {"this_id": made["id"]}))
        assert now["fence"] == 7
