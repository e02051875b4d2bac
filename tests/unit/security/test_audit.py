"""The audit chain: written with the change, verified end to end, broken by any tampering."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from llmos.errors import AuditError
from llmos.security.audit import GENESIS, list_events, record, verify
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import audit


@pytest.fixture
def db() -> Iterator[MemoryDatabase]:
    database = MemoryDatabase()
    yield database
    database.close()


def write(db: MemoryDatabase, rows: int) -> None:
    for index in range(rows):
        detail = {"n": index, "中": [1.5, None, {"b": 1, "a": True}]}
        db.write_sync(
            lambda conn, d=detail: record(conn, "k1", "models.create", "a:1", d, 0.1 + 1e9)
        )


def test_an_empty_trail_verifies(db: MemoryDatabase) -> None:
    assert verify(db) == 0


def test_every_event_links_to_the_one_before(db: MemoryDatabase) -> None:
    write(db, 5)
    assert verify(db) == 5
    events = list_events(db)
    assert [event.seq for event in events] == [5, 4, 3, 2, 1]
    assert events[-1].previous_hash == GENESIS
    assert all(new.previous_hash == old.hash for new, old in itertools.pairwise(events))
    assert [event.seq for event in list_events(db, limit=2, before=4)] == [3, 2]


def test_several_events_of_one_transaction_chain(db: MemoryDatabase) -> None:
    def change(conn: sa.Connection) -> None:
        for name in ("a", "b", "c"):
            record(conn, "k1", "models.create", name, {}, 1.0)

    db.write_sync(change)
    assert verify(db) == 3


def test_an_event_of_a_failed_change_is_not_there(db: MemoryDatabase) -> None:
    def change(conn: sa.Connection) -> None:
        record(conn, "k1", "models.create", "a", {}, 1.0)
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        db.write_sync(change)
    write(db, 1)
    assert verify(db) == 1


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at", 2.0),
        ("actor", "other"),
        ("action", "models.remove"),
        ("object", "b:1"),
        ("detail", {"n": 99}),
        ("previous_hash", "f" * 64),
        ("hash", "f" * 64),
        ("seq", 1000),
    ],
)
def test_a_changed_row_is_found(db: MemoryDatabase, column: str, value: Any) -> None:
    write(db, 4)
    db.write_sync(
        lambda conn: conn.execute(audit.update().where(audit.c.seq == 3).values({column: value}))
    )
    with pytest.raises(AuditError, match="row 3"):
        verify(db)


@pytest.mark.parametrize("seq", [1, 2, 3])
def test_a_removed_row_is_found(db: MemoryDatabase, seq: int) -> None:
    write(db, 4)
    db.write_sync(lambda conn: conn.execute(audit.delete().where(audit.c.seq == seq)))
    with pytest.raises(AuditError, match=f"row {seq} is missing"):
        verify(db)


def test_a_forged_row_in_the_middle_is_found(db: MemoryDatabase) -> None:
    write(db, 2)
    rehashed = {"detail": {"n": 0}, "hash": list_events(db)[0].hash}
    db.write_sync(
        lambda conn: conn.execute(audit.update().where(audit.c.seq == 1).values(rehashed))
    )
    with pytest.raises(AuditError):
        verify(db)


def test_the_owner_of_a_row_is_its_actor(db: MemoryDatabase) -> None:
    write(db, 1)
    assert db.read_sync(lambda conn: conn.execute(sa.select(audit.c.owner)).scalar()) == "k1"


def test_a_long_trail_verifies_in_pages(db: MemoryDatabase) -> None:
    def change(conn: sa.Connection) -> None:
        for index in range(2001):
            record(conn, "k1", "models.create", str(index), {}, float(index))

    db.write_sync(change)
    assert verify(db) == 2001
