from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, func, insert, select, text
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from llmos.errors import ConflictError, DiskFullError, OverloadedError
from llmos.storage import engines
from llmos.storage.database import Database
from llmos.storage.schema import job_after, task_defaults


def add(task: str, model: str = "m") -> None:
    def change(connection: Connection) -> str:
        connection.execute(insert(task_defaults).values(task=task, model=model, owner="o"))
        return task

    return change


def tasks(connection: Connection) -> list[str]:
    return list(connection.scalars(select(task_defaults.c.task).order_by(task_defaults.c.task)))


async def test_a_write_returns_its_value_and_reads_see_it(database: Database) -> None:
    assert await database.write(add("a")) == "a"
    assert await database.read(tasks) == ["a"]
    assert database.write_sync(add("b")) == "b"
    assert database.read_sync(tasks) == ["a", "b"]


async def test_who_was_told_of_a_write_sees_that_something_was_written(tmp_path: Path) -> None:
    with closing(Database.open(tmp_path / "a.db")) as database:
        before = database.num_commits()
        database.read_sync(tasks)
        assert database.num_commits() == before
        for task in "abc":
            database.write_sync(add(task))
            assert database.num_commits() > before
            before = database.num_commits()


async def test_a_failing_change_is_rolled_back_and_its_neighbours_are_kept(
    database: Database,
) -> None:
    def half(connection: Connection) -> None:
        add("half")(connection)
        raise ValueError("no")

    outcomes = await asyncio.gather(
        database.write(add("a")),
        database.write(half),
        database.write(add("a")),
        database.write(add("b")),
        return_exceptions=True,
    )
    assert outcomes[0] == "a"
    assert isinstance(outcomes[1], ValueError)
    assert isinstance(outcomes[2], IntegrityError)
    assert outcomes[3] == "b"
    assert await database.read(tasks) == ["a", "b"]


async def test_changes_run_in_the_order_they_were_made(database: Database) -> None:
    seen: list[int] = []
    await asyncio.gather(
        *(database.write(lambda _, number=number: seen.append(number)) for number in range(200))
    )
    assert seen == list(range(200))


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(OperationalError, match="readonly"):
        await database.read(add("a"))
    await database.write(add("b"))
    assert await database.read(tasks) == ["b"]


def test_foreign_keys_hold(database: Database) -> None:
    with pytest.raises(IntegrityError):
        database.write_sync(
            lambda c: c.execute(insert(job_after).values(job_id=1, after_id=2, owner="o"))
        )


def test_numbers_json_lacks_are_stored_as_null(database: Database) -> None:
    serialized = engines._to_json({"loss": float("nan"), "best": float("inf")})
    assert serialized == '{"loss":null,"best":null}'


async def test_a_cancelled_write_leaves_the_writer_working(database: Database) -> None:
    begun, gate = threading.Event(), threading.Event()
    blocked = asyncio.ensure_future(database.write(lambda _: begun.set() or gate.wait()))
    await asyncio.to_thread(begun.wait)
    waiting = asyncio.ensure_future(database.write(add("never")))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.set()
    await blocked
    await database.write(add("a"))
    assert await database.read(tasks) == ["a"]


def test_a_change_may_not_wait_for_another(database: Database) -> None:
    with pytest.raises(RuntimeError, match="may not wait"):
        database.write_sync(lambda _: database.write_sync(add("a")))


def test_a_change_that_ends_its_transaction_is_an_error_and_the_writer_goes_on(
    database: Database,
) -> None:
    for misuse in (Connection.commit, Connection.rollback, Connection.close):
        with pytest.raises(SQLAlchemyError):
            database.write_sync(misuse)
    database.write_sync(add("a"))
    assert database.read_sync(tasks) == ["a"]


def test_a_closed_database_refuses(database: Database) -> None:
    database.close()
    with pytest.raises(RuntimeError, match="closed"):
        database.write_sync(add("a"))


# -- files only ------------------------------------------------------------


@pytest.fixture
def file_database(tmp_path: Path):
    database = Database.open(tmp_path / "a.db")
    yield database
    database.close()


def pragma(name: str):
    return lambda connection: connection.execute(text(f"PRAGMA {name}")).scalar()


def test_pragmas_are_those_of_a_durable_store(file_database: Database) -> None:
    assert file_database.write_sync(pragma("journal_mode")) == "wal"
    assert file_database.write_sync(pragma("synchronous")) == 2
    assert file_database.write_sync(pragma("foreign_keys")) == 1
    assert file_database.read_sync(pragma("query_only")) == 1


def test_what_was_written_is_there_after_reopening(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "a.db")
    database.write_sync(add("a"))
    database.close()
    assert not (tmp_path / "a.db-wal").exists()
    database = Database.open(tmp_path / "a.db")
    assert database.read_sync(tasks) == ["a"]
    database.close()


async def test_changes_that_wait_together_share_one_commit(
    file_database: Database,
) -> None:
    gate = threading.Event()
    blocked = asyncio.ensure_future(file_database.write(lambda _: gate.wait()))
    waiting = [asyncio.ensure_future(file_database.write(add(f"{n:03}"))) for n in range(100)]
    await asyncio.sleep(0)
    commits: list[str] = []
    engine = file_database._writer_engine
    event.listen(engine, "commit", lambda _: commits.append("commit"))
    gate.set()
    await asyncio.gather(blocked, *waiting)
    assert len(commits) <= 2
    assert len(await file_database.read(tasks)) == 100


async def test_a_full_disk_is_a_typed_error_and_passes(file_database: Database) -> None:
    pages = file_database.write_sync(pragma("page_count"))
    file_database.write_sync(pragma(f"max_page_count={pages + 4}"))
    with pytest.raises(DiskFullError):
        await file_database.write(add("big", "x" * 100_000))
    assert await file_database.read(tasks) == []
    file_database.write_sync(pragma("max_page_count=1000000"))
    await file_database.write(add("big", "x" * 100_000))
    assert await file_database.read(tasks) == ["big"]


async def test_one_change_too_big_for_the_disk_does_not_fail_its_group(
    file_database: Database,
) -> None:
    pages = file_database.write_sync(pragma("page_count"))
    file_database.write_sync(pragma(f"max_page_count={pages + 4}"))
    gate = threading.Event()
    outcomes = asyncio.gather(
        file_database.write(lambda _: gate.wait()),
        file_database.write(add("a")),
        file_database.write(add("big", "x" * 100_000)),
        file_database.write(add("b")),
        return_exceptions=True,
    )
    await asyncio.sleep(0)
    gate.set()
    _, a, big, b = await outcomes
    assert (a, b) == ("a", "b")
    assert isinstance(big, DiskFullError)
    assert await file_database.read(tasks) == ["a", "b"]


def test_a_database_locked_by_another_program_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "LOCK_WAIT_S", 0.01)
    database = Database.open(tmp_path / "a.db")
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(OverloadedError, match="Another program"):
            database.write_sync(add("a"))
        other.execute("ROLLBACK")
    database.write_sync(add("a"))
    assert database.read_sync(lambda c: c.scalar(select(func.count()).select_from(task_defaults)))
    database.close()


def test_a_write_without_a_connection_is_an_error_and_later_ones_are_kept(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    database = Database.open(home / "a.db")
    database._writer_engine.dispose()
    home.rename(tmp_path / "away")
    with pytest.raises(OperationalError, match="unable to open"):
        database._writer.submit(add("a")).result(timeout=10)
    (tmp_path / "away").rename(home)
    database._writer.submit(add("b")).result(timeout=10)
    assert database.read_sync(tasks) == ["b"]
    database.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database " * 100)
    with pytest.raises(ConflictError, match="not a database"):
        Database.open(tmp_path / "a.db")
