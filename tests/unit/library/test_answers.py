"""Kept answers: for whom, for how long, how many, and under which id."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import sqlalchemy as sa

from llmos.library import answers as module
from llmos.library.answers import AnswerNotFoundError, Answers, KeptAnswer, key_of
from llmos.security.actors import SYSTEM, Actor
from llmos.security.audit import list_events
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import answers

ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")


def answer(number: int, at: float, owner: str = "alice") -> KeptAnswer:
    return KeptAnswer(
        id=f"{number:x}",
        owner=owner,
        asked="m",
        model="m:1",
        digest="sha256:0",
        runs_as="m:1",
        request={"prompt": "hi"},
        outputs=[{"token_ids": [1, 2], "finish_reason": "stop"}],
        settings={},
        at=at,
    )


@pytest.mark.parametrize(
    ("response_id", "key"),
    [("chatcmpl-0a1", "0a1"), ("cmpl-0a1", "0a1"), ("resp_0a1", "0a1"), ("resp-0a1", "0a1")],
)
def test_a_response_is_found_whatever_its_door_puts_before_its_id(
    response_id: str, key: str
) -> None:
    assert key_of(response_id) == key


async def test_what_is_kept_comes_back_whole_and_after_a_restart(
    db: MemoryDatabase, clock: Any
) -> None:
    kept = Answers(db, clock)
    await kept.switch(ALICE, True)
    given = answer(10, clock())
    await kept.put(given)
    again = Answers(db, clock)
    again.load()
    assert (again.keeps("alice"), again.keeps("bob")) == (True, False)
    assert await again.get("chatcmpl-a", ALICE) == given
    with pytest.raises(AnswerNotFoundError, match="llmos answers on"):
        await again.get("chatcmpl-a", BOB)
    assert [event.action for event in list_events(db)] == ["answers.keep"]


async def test_an_answer_that_ends_after_keeping_was_switched_off_is_not_kept(
    db: MemoryDatabase, clock: Any
) -> None:
    kept = Answers(db, clock)
    await kept.switch(ALICE, True)
    await kept.switch(ALICE, False)
    await kept.put(answer(1, clock()))
    with pytest.raises(AnswerNotFoundError):
        await kept.get("1", ALICE)


async def test_the_old_and_the_too_many_are_forgotten(
    db: MemoryDatabase, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OWNER_ANSWERS", 3)
    kept = Answers(db, clock)
    await kept.switch(ALICE, True)
    await kept.switch(BOB, True)
    await kept.put(answer(0, clock(), "bob"))
    for number in range(1, 6):
        clock.now += 1
        await kept.put(dataclasses.replace(answer(number, clock())))
    rows = await db.read(lambda conn: conn.execute(sa.select(answers.c.id)).scalars().all())
    assert sorted(rows) == ["0", "3", "4", "5"]
    clock.now += module.KEPT_S
    await kept.put(answer(9, clock()))
    rows = await db.read(lambda conn: conn.execute(sa.select(answers.c.id)).scalars().all())
    assert sorted(rows) == ["0", "5", "9"], "each put looks after its own owner"


async def test_the_oldest_go_where_all_together_are_too_large(
    db: MemoryDatabase, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_OWNER_BYTES", 2500)
    kept = Answers(db, clock)
    await kept.switch(ALICE, True)
    await kept.switch(BOB, True)
    await kept.put(answer(0, clock(), "bob"))
    for number in range(1, 5):
        clock.now += 1
        long = dataclasses.replace(answer(number, clock()), request={"prompt": "x" * 1000})
        await kept.put(long)
    rows = await db.read(lambda conn: conn.execute(sa.select(answers.c.id)).scalars().all())
    assert sorted(rows) == ["0", "3", "4"]


async def test_what_is_too_old_is_not_given_out_and_goes_with_a_sweep(
    db: MemoryDatabase, clock: Any
) -> None:
    kept = Answers(db, clock)
    await kept.switch(ALICE, True)
    await kept.put(answer(1, clock()))
    clock.now += module.KEPT_S
    assert (await kept.get("1", ALICE)).id == "1"
    assert await kept.sweep(SYSTEM) == 0
    clock.now += 1
    with pytest.raises(AnswerNotFoundError):
        await kept.get("1", ALICE)
    assert (await kept.sweep(SYSTEM), await kept.sweep(SYSTEM)) == (1, 0)
