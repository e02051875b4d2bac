"""What owners may still store, on an in-memory database."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert

from llmos.errors import QuotaExceededError
from llmos.kernel import usage_store
from llmos.kernel.jobs import JobKind
from llmos.kernel.queue import JobQueue
from llmos.kernel.quotas import UNLIMITED, Limits
from llmos.kernel.room import Room
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import blob_owners, uploads, version_files, versions

pytestmark = pytest.mark.usefixtures("stored")


@pytest.fixture
def stored(database: MemoryDatabase) -> None:
    """Alice has 34 bytes: two versions that share a file, a file for batches and an upload of the
    same content as one of theirs, another upload, and a version that was removed."""
    files = {1: {"a": 10, "b": 5}, 2: {"a": 10, "c": 15}, 3: {"d": 1000}, 4: {"e": 7}}
    owners = {1: "alice", 2: "alice", 3: "alice", 4: "bob"}

    def fill(connection: Any) -> None:
        for number, named in files.items():
            row = {"id": number, "kind": "model", "name": f"m{number}", "number": 1}
            row |= {"digest": f"v{number}", "manifest": {}, "owner": owners[number]}
            row |= {"created_at": 0.0, "removed_at": 1.0 if number == 3 else None}
            connection.execute(insert(versions).values(row))
            for digest, size in named.items():
                file = {"version_id": number, "filename": digest, "owner": owners[number]}
                file |= {"digest": digest, "size": size}
                connection.execute(insert(version_files).values(file))
        sent = {"id": "f1", "filename": "x", "purpose": "batch", "digest": "c", "size_bytes": 15}
        sent |= {"owner": "alice", "created_at": 0.0}
        connection.execute(insert(uploads).values(sent))
        for digest, size in {"a": 10, "x": 4}.items():
            row = {"owner": "alice", "digest": digest, "size_bytes": size}
            connection.execute(insert(blob_owners).values(row))

    database.write_sync(fill)


@pytest.fixture
def limits() -> dict[str, Limits]:
    """Limits of stored bytes by owner."""
    return {}


@pytest.fixture
def room(database: MemoryDatabase, limits: dict[str, Limits]) -> Room:
    return Room(database, lambda owner: limits.get(owner, UNLIMITED))


def test_each_content_counts_once_and_what_was_removed_not_at_all(database: MemoryDatabase) -> None:
    def stored_by(owner: str) -> int:
        return database.read_sync(lambda conn: usage_store.stored_bytes(conn, owner))

    assert [stored_by(owner) for owner in ("alice", "bob", "nobody")] == [34, 7, 0]


async def test_more_than_the_limit_is_refused(room: Room, limits: dict[str, Limits]) -> None:
    limits["alice"] = Limits(stored_bytes=44)
    await room.check("alice", 10)
    with pytest.raises(QuotaExceededError, match="44 bytes"):
        await room.check("alice", 11)
    await room.check("bob", 10**12)


async def test_uploads_on_their_way_count_until_they_are_over(
    room: Room, limits: dict[str, Limits]
) -> None:
    limits["alice"] = Limits(stored_bytes=44)
    with room.arriving("alice") as one, room.arriving("alice") as other:
        one.num_bytes, other.num_bytes = 6, 4
        await room.check("alice", 0)
        one.num_bytes += 1
        with pytest.raises(QuotaExceededError):
            await room.check("alice", 0)
    await room.check("alice", 10)


async def test_who_has_no_room_left_can_neither_queue_nor_commit(
    room: Room, limits: dict[str, Limits], database: MemoryDatabase
) -> None:
    kind = JobKind("train", "nowhere:run", lambda params: params, lambda params: 0)
    queue = JobQueue(database, {"train": kind}, lambda: 0.0, rng=random.Random(0))
    queue.check_room = room.check
    limits["alice"] = Limits(stored_bytes=35)
    failed = await queue.submit("train", {}, owner="alice")
    await queue.cancel(failed.id, "k")
    limits["alice"] = Limits(stored_bytes=34)
    for asked in (queue.submit("train", {}, owner="alice"), queue.retry(failed.id, "k")):
        with pytest.raises(QuotaExceededError, match="remove something"):
            await asked
    limits["alice"] = Limits(stored_bytes=33)
    commit = room.within_store(lambda connection, job, result: ["ref:1"])
    result: Any = SimpleNamespace(artifacts=(1,))
    alices, bobs = (SimpleNamespace(owner=owner) for owner in ("alice", "bob"))
    with pytest.raises(QuotaExceededError):
        database.read_sync(lambda connection: commit(connection, alices, result))
    assert database.read_sync(lambda connection: commit(connection, bobs, result)) == ["ref:1"]


async def test_no_transaction_waits_while_the_store_is_summed_for_a_job(
    room: Room,
    limits: dict[str, Limits],
    database: MemoryDatabase,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = JobKind("train", "nowhere:run", lambda params: params, lambda params: 0)
    queue = JobQueue(database, {"train": kind}, lambda: 0.0, rng=random.Random(0))
    queue.check_room = room.check
    limits["alice"] = Limits(stored_bytes=100)
    may_write: list[int] = []

    def watched(connection: Any, owner: str) -> int:
        may_write.append(1 - connection.exec_driver_sql("PRAGMA query_only").scalar())
        return 34

    monkeypatch.setattr(usage_store, "stored_bytes", watched)
    await queue.submit("train", {}, owner="alice")
    assert may_write == [0]
