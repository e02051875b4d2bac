"""Stored responses: whose they are, how long they stay, what goes on from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.security import audit
from llmos.security.actors import Actor
from llmos.server.response_store import (
    KEPT_S,
    PreviousResponseNotFoundError,
    ResponseNotFoundError,
    ResponseStore,
)
from llmos.storage.memory import MemoryDatabase

ALICE = Actor("k1", "alice", "user")
BOB = Actor("k2", "bob", "admin")
LIMIT = 10**6


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db() -> Iterator[MemoryDatabase]:
    database = MemoryDatabase()
    yield database
    database.close()


@pytest.fixture
def store(db: MemoryDatabase, clock: Clock) -> ResponseStore:
    return ResponseStore(db, clock)


def body(name: str, previous: str | None = None, text: str = "") -> dict[str, Any]:
    output = [{"type": "message", "role": "assistant", "content": text or f"answer {name}"}]
    return {"id": name, "previous_response_id": previous, "model": "m:1", "output": output}


def asked(name: str) -> list[dict[str, Any]]:
    return [{"type": "message", "role": "user", "content": f"question {name}"}]


async def put(store: ResponseStore, name: str, previous: str | None = None, **more: Any) -> None:
    earlier = (await store.conversation(previous, "alice", LIMIT)).ids if previous else ()
    await store.put(ALICE, body(name, previous, **more), asked(name), earlier)


async def test_a_response_is_there_for_its_owner_alone(store: ResponseStore) -> None:
    await put(store, "r1")
    stored = await store.get("r1", "alice")
    assert (stored.body, stored.input) == (body("r1"), asked("r1"))
    with pytest.raises(ResponseNotFoundError, match="r1"):
        await store.get("r1", "bob")
    with pytest.raises(ResponseNotFoundError):
        await store.delete("r1", BOB)
    with pytest.raises(PreviousResponseNotFoundError):
        await store.conversation("r1", "bob", LIMIT)


async def test_a_conversation_has_all_that_was_said_in_order(store: ResponseStore) -> None:
    await put(store, "r1")
    await put(store, "r2", "r1")
    await put(store, "r3", "r2")
    await put(store, "other", "r1")
    found = await store.conversation("r3", "alice", LIMIT)
    assert found.ids == ("r1", "r2", "r3")
    said = [item["content"] for item in found.items]
    assert said == [f"{what} r{n}" for n in (1, 2, 3) for what in ("question", "answer")]


async def test_a_deleted_response_takes_what_went_on_from_it_along(store: ResponseStore) -> None:
    await put(store, "r1")
    await put(store, "r2", "r1")
    await store.delete("r1", ALICE)
    with pytest.raises(ResponseNotFoundError):
        await store.get("r1", "alice")
    assert (await store.get("r2", "alice")).body["id"] == "r2"
    with pytest.raises(PreviousResponseNotFoundError):
        await store.conversation("r2", "alice", LIMIT)


async def test_after_30_days_a_response_is_gone_and_then_swept(
    store: ResponseStore, clock: Clock
) -> None:
    await put(store, "r1")
    clock.now += KEPT_S - 1
    await store.get("r1", "alice")
    clock.now += 1
    with pytest.raises(ResponseNotFoundError):
        await store.get("r1", "alice")
    assert await store.sweep(BOB) == 1
    assert await store.sweep(BOB) == 0


async def test_going_on_renews_the_whole_conversation(store: ResponseStore, clock: Clock) -> None:
    await put(store, "r1")
    await put(store, "left")
    clock.now += KEPT_S / 2
    await put(store, "r2", "r1")
    clock.now += KEPT_S / 2
    assert await store.sweep(BOB) == 1
    assert (await store.conversation("r2", "alice", LIMIT)).ids == ("r1", "r2")


async def test_of_an_owners_responses_the_newest_are_kept(db: MemoryDatabase, clock: Clock) -> None:
    store = ResponseStore(db, clock, max_owner_bytes=2500)
    await store.put(BOB, body("bobs", text="x" * 2000), [], ())
    for number in range(3):
        clock.now += 1
        await put(store, f"r{number}", text="x" * 900)
    with pytest.raises(ResponseNotFoundError):
        await store.get("r0", "alice")
    await store.get("r1", "alice")
    await store.get("r2", "alice")
    await store.get("bobs", "bob")


async def test_a_conversation_too_large_to_send_is_refused(store: ResponseStore) -> None:
    await put(store, "r1", text="x" * 1000)
    with pytest.raises(InvalidRequestError, match="500 bytes"):
        await store.conversation("r1", "alice", 500)


async def test_every_change_is_in_the_audit_trail(
    store: ResponseStore, db: MemoryDatabase, clock: Clock
) -> None:
    await put(store, "r1")
    await put(store, "r2")
    await store.delete("r1", ALICE)
    clock.now += KEPT_S
    await store.sweep(BOB)
    events = [(event.actor, event.action, event.object) for event in audit.list_events(db)][::-1]
    assert events == [
        ("k1", "responses.create", "r1"),
        ("k1", "responses.create", "r2"),
        ("k1", "responses.delete", "r1"),
        ("k2", "responses.sweep", ""),
    ]
    assert audit.verify(db) == 4
