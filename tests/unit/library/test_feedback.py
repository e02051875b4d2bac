"""Feedback is kept with what it is on, its owner's alone, and taken by a learner once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from llmos.errors import ConflictError, InvalidNameError, InvalidRequestError
from llmos.library import feedback as module
from llmos.library.answers import AnswerNotFoundError, Answers, KeptAnswer
from llmos.library.feedback import (
    FeedbackNotFoundError,
    FeedbackStore,
    Lesson,
    Said,
    check_source,
    commit_learned,
)
from llmos.security.actors import Actor
from llmos.security.audit import list_events
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import answer_keepers, feedback, jobs

ALICE, BOB = Actor("k1", "alice", "user"), Actor("k2", "bob", "user")
ADMIN = Actor("k0", "admin", "admin")


def answer(key: str = "a1", owner: str = "alice", **more: Any) -> KeptAnswer:
    values: dict[str, Any] = {
        "id": key,
        "owner": owner,
        "asked": "helper",
        "model": "helper:1",
        "digest": "sha256:0",
        "runs_as": "helper:1",
        "request": {"prompt": [{"role": "user", "content": f"ask {key}"}]},
        "outputs": [{"token_ids": [1], "finish_reason": "stop", "text": f"said {key}"}],
        "settings": {},
        "at": 0.0,
    }
    return KeptAnswer(**values | more)


@pytest.fixture
def store(db: MemoryDatabase, clock: Any) -> FeedbackStore:
    keepers = [{"owner": owner, "since": 0.0} for owner in ("alice", "bob")]
    db.write_sync(lambda conn: conn.execute(answer_keepers.insert(), keepers))
    return FeedbackStore(db, clock)


async def test_what_is_said_is_kept_with_the_answer_and_audited_without_its_words(
    store: FeedbackStore, db: MemoryDatabase
) -> None:
    said = Said(rating=2, correction="secret words", comment="too short")
    kept = await store.give(ALICE, answer(), said)
    (listed,) = await store.of_owner("alice")
    assert listed == kept
    assert (kept.good, kept.rating, kept.correction) == (False, 2, "secret words")
    assert (kept.text, kept.prompt[0]["content"]) == ("said a1", "ask a1")
    (event,) = list_events(db)
    assert (event.action, event.object, event.actor) == ("feedback.keep", "helper:1", "k1")
    assert "secret" not in str(event.detail)


async def test_what_is_said_again_takes_the_place_of_what_was(store: FeedbackStore) -> None:
    first = await store.give(ALICE, answer(), Said(good=True))
    second = await store.give(ALICE, answer(), Said(correction="no: this"))
    assert await store.of_owner("alice") == [second]
    assert second.id > first.id, "who learned the first learns the second"


async def test_each_of_several_answers_has_its_own(store: FeedbackStore) -> None:
    outputs = [{"token_ids": [], "finish_reason": "stop", "text": text} for text in "xy"]
    two = answer(outputs=outputs)
    await store.give(ALICE, two, Said(good=False))
    await store.give(ALICE, two, Said(good=True, choice=1))
    assert [(one.text, one.good) for one in await store.of_owner("alice")] == [
        *(("y", True), ("x", False)),
    ]
    with pytest.raises(InvalidRequestError, match="2 choices"):
        await store.give(ALICE, two, Said(good=True, choice=2))


async def test_an_answer_of_an_older_llmos_says_why_it_cannot_teach(store: FeedbackStore) -> None:
    old = answer(outputs=[{"token_ids": [1], "finish_reason": "stop"}])
    with pytest.raises(InvalidRequestError, match="without its text"):
        await store.give(ALICE, old, Said(good=True))


async def test_it_is_its_owners_and_listed_by_model(store: FeedbackStore) -> None:
    await store.give(ALICE, answer("a"), Said(good=True))
    await store.give(ALICE, answer("b", model="other:1"), Said(good=True))
    third = await store.give(ADMIN, answer("c", model="helper:2"), Said(good=True))
    assert (third.owner, third.actor) == ("alice", "k0")
    assert await store.of_owner("bob") == []
    shown = await store.of_owner("alice", "helper")
    assert [one.answer for one in shown] == ["c", "a"]
    assert [one.answer for one in await store.of_owner("alice", "helper:1")] == ["a"]
    assert [one.answer for one in await store.of_owner("alice", before=third.id)] == ["b", "a"]
    assert [one.answer for one in await store.of_owner("alice", limit=1)] == ["c"]


async def test_what_may_not_be_shown_takes_no_place(store: FeedbackStore) -> None:
    for key in "abc":
        await store.give(ALICE, answer(key), Said(good=key == "a"))
    shown = await store.of_owner("alice", limit=1, shows=lambda one: bool(one.good))
    assert [one.answer for one in shown] == ["a"]


async def test_it_is_forgotten_by_its_owner_or_an_admin(store: FeedbackStore) -> None:
    one = await store.give(ALICE, answer("a"), Said(good=True))
    two = await store.give(ALICE, answer("b"), Said(good=True))
    with pytest.raises(FeedbackNotFoundError):
        await store.remove(BOB, one.id)
    await store.remove(ALICE, one.id)
    await store.remove(ADMIN, two.id)
    assert await store.of_owner("alice") == []
    with pytest.raises(FeedbackNotFoundError, match="llmos feedback"):
        await store.remove(ALICE, one.id)


async def test_a_number_is_never_given_out_again(store: FeedbackStore) -> None:
    one = await store.give(ALICE, answer("a"), Said(good=True))
    await store.remove(ALICE, one.id)
    two = await store.give(ALICE, answer("b"), Said(good=True))
    assert two.id > one.id, "else a learner that has taken the first would miss the second"


async def test_it_goes_when_answers_are_kept_no_more(
    store: FeedbackStore, db: MemoryDatabase, clock: Any
) -> None:
    answers = Answers(db, clock)
    await store.give(ALICE, answer("a"), Said(good=True))
    await store.give(BOB, answer("b", owner="bob"), Said(good=True))
    await answers.switch(ALICE, False)
    with pytest.raises(AnswerNotFoundError):  # it was read before that
        await store.give(ALICE, answer("a"), Said(good=True))
    assert await store.of_owner("alice") == []
    assert len(await store.of_owner("bob")) == 1


@pytest.mark.parametrize(("limit", "value"), [("MAX_OWNER_FEEDBACK", 2), ("MAX_OWNER_BYTES", 140)])
async def test_the_oldest_go_where_there_are_too_many_or_they_are_too_large(
    store: FeedbackStore, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    for key in "abcde":
        await store.give(ALICE, answer(key), Said(good=True))
    await store.give(BOB, answer("z", owner="bob"), Said(good=True))
    assert [one.answer for one in await store.of_owner("alice")] == ["e", "d"]
    assert len(await store.of_owner("bob")) == 1


async def test_rows_that_are_given_are_kept_once(store: FeedbackStore, db: MemoryDatabase) -> None:
    turns = [{"role": "user", "content": "hi"}]
    rows = [Lesson(f"{n}", turns, f"answer {n}", "worse") for n in range(3)]
    assert await store.teach(ALICE, "helper:1", rows[:2]) == 2
    assert await store.teach(ALICE, "helper:2", rows) == 1, "the file has grown"
    assert await store.teach(ALICE, "helper:2", rows) == 0
    assert await store.teach(ALICE, "other:1", rows) == 3, "another model has yet to learn them"
    taken = await store.lessons("alice", "helper", "preferences")
    assert [row["chosen"] for row in taken.rows] == ["answer 0", "answer 1", "answer 2"]
    assert {row["rejected"] for row in taken.rows} == {"worse"}
    assert [event.detail["rows"] for event in list_events(db)] == [3, 1, 2], "nothing new: nothing"


async def test_many_rows_are_written_at_once(store: FeedbackStore, db: MemoryDatabase) -> None:
    said: list[str] = []

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def note(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO feedback"):
            said.append(statement)

    try:
        await store.teach(ALICE, "helper:1", [Lesson(f"{n}", "", f"{n}") for n in range(50)])
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(said) == 1
    assert await db.read(lambda conn: conn.scalar(sa.select(sa.func.count(feedback.c.id)))) == 50


async def test_news_are_what_no_update_has_taken_and_no_more_than_wanted(
    store: FeedbackStore, db: MemoryDatabase
) -> None:
    turns = [{"role": "user", "content": "hi"}]
    await store.teach(ALICE, "helper:1", [Lesson(f"{n}", turns, f"{n}") for n in range(5)])
    first = await store.news("alice", "helper", "helper", "chat", 3)
    assert [row["messages"][-1]["content"] for row in first.rows] == ["0", "1", "2"]
    assert first == await store.news("alice", "helper", "helper", "chat", 3), "until it is learned"
    db.write_sync(lambda conn: finish(conn, first.after, first.upto))
    rest = await store.news("alice", "helper", "helper", "chat", 3)
    assert [row["messages"][-1]["content"] for row in rest.rows] == ["3", "4"]
    assert rest.after == first.upto
    assert len((await store.news("alice", "another", "helper", "chat", 9)).rows) == 5
    assert (await store.news("bob", "helper", "helper", "chat", 9)).rows == []


async def test_two_updates_that_took_the_same_are_not_both_learned(
    store: FeedbackStore, db: MemoryDatabase
) -> None:
    turns = [{"role": "user", "content": "hi"}]
    await store.teach(ALICE, "helper:1", [Lesson("1", turns, "1")])
    taken = await store.news("alice", "helper", "helper", "chat", 3)
    db.write_sync(lambda conn: finish(conn, taken.after, taken.upto))
    with pytest.raises(ConflictError, match="meanwhile"):
        db.write_sync(lambda conn: finish(conn, taken.after, taken.upto))


def finish(conn: sa.Connection, after: int, upto: int) -> None:
    """What the transaction that ends a train job does."""
    if conn.scalar(sa.select(jobs.c.id)) is None:
        values = {"id": 1, "kind": "train", "name": "", "params": {}, "state": "running"}
        conn.execute(jobs.insert().values(**values, priority=1, owner="alice", created_at=0.0))
    stream = {"source": "feedback:helper", "after": after, "upto": upto, "rows": 1}
    params = {"name": "helper", "stream": stream}
    commit_learned(conn, SimpleNamespace(id=1, params=params, owner="alice"), 0.0)  # type: ignore[arg-type]


def test_a_source_names_a_model_or_a_version_of_it() -> None:
    assert check_source("feedback:helper") == "helper"
    assert check_source("feedback:helper:3") == "helper:3"
    with pytest.raises(InvalidRequestError, match="use helper"):
        check_source("feedback:helper@production")
    with pytest.raises(InvalidNameError):
        check_source("feedback:")
