"""Who labels which item next: functions over a connection, each inside its caller's transaction.

An item is held by at most `overlap` annotators: those who have labelled it, and those who have it
now. One who does not answer in time loses it again, and may get it once more. Who has answered does
not get it again, but may change the answer. What a reviewer has decided is given to nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from llmos.apps.annotation_rows import OPEN, Item, Said, Task, Turn
from llmos.data.annotation.scheme import checked_value
from llmos.errors import ConflictError, InvalidRequestError, NotFoundError
from llmos.security.actors import Actor
from llmos.storage.schema import (
    annotation_consents,
    annotation_items,
    annotation_labels,
    annotation_turns,
)

LEASED, LAPSED, LABELLED, SKIPPED = "leased", "lapsed", "labelled", "skipped"
HOLDS = (LEASED, LABELLED)
"""States of a turn that take one of an item's places."""
LABEL, FINAL = "label", "final"
MAX_CHANGES = 100
"""Labels that one annotator may give one item, one after the other."""

items, turns, labels = annotation_items, annotation_turns, annotation_labels


class Starts:
    """Below which rank there is nothing for an annotator: what was found before need not be looked
    through again. Forgotten whenever an item may have come free, or another rank. Belongs to the
    thread that writes.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, dict[str, float]] = {}

    def of(self, task: int, annotator: str) -> float:
        """Return the lowest rank at which the annotator's next item can be."""
        return self._ranks.get(task, {}).get(annotator, -math.inf)

    def put(self, task: int, annotator: str, rank: float) -> None:
        """Note where the annotator's next item is; infinity: there is none."""
        self._ranks.setdefault(task, {})[annotator] = rank

    def forget(self, task: int) -> None:
        """Know nothing of a task any more."""
        self._ranks.pop(task, None)


def take(
    conn: sa.Connection, task: Task, annotator: str, now: float, starts: Starts
) -> Turn | None:
    """Give an annotator the next item for the time of a lease, or the one that it has already, from
    now on. None: there is none for this annotator now.

    Raises:
        ConflictError: the task is not open.
    """
    _check_open(task)
    release(conn, task, now, starts)
    until = now + task.lease_s
    mine = _turns_of(task, annotator)
    held = conn.scalar(
        sa.select(turns.c.place).where(*mine, turns.c.state == LEASED).order_by(turns.c.place)
    )
    if held is not None:
        conn.execute(turns.update().where(*mine, turns.c.place == held).values(leased_until=until))
        return Turn(_item(conn, task, held), until)
    found = conn.execute(
        sa.select(items.c.place, items.c.rank)
        .where(items.c.task_id == task.id, items.c.is_open, ~_answered_by(task, annotator))
        .where(items.c.rank >= starts.of(task.id, annotator))
        .order_by(items.c.rank, items.c.place)
        .limit(1)
    ).first()
    starts.put(task.id, annotator, math.inf if found is None else found.rank)
    if found is None:
        return None
    place = int(found.place)
    this = (*mine, turns.c.place == place)
    conn.execute(turns.delete().where(*this))
    turn = {"task_id": task.id, "annotator": annotator, "place": place, "owner": annotator}
    conn.execute(turns.insert().values(**turn, state=LEASED, leased_until=until))
    _recount(conn, task, [place])
    return Turn(_item(conn, task, place), until)


def release(conn: sa.Connection, task: Task, now: float, starts: Starts) -> None:
    """Free the items whose leases are over."""
    over = (
        turns.c.task_id == task.id,
        turns.c.state == LEASED,
        turns.c.leased_until <= now,
    )
    places = conn.scalars(sa.select(turns.c.place).where(*over).distinct()).all()
    if places:
        starts.forget(task.id)
        conn.execute(turns.update().where(*over).values(state=LAPSED, leased_until=None))
        _recount(conn, task, places)


def put(
    conn: sa.Connection,
    task: Task,
    actor: Actor,
    place: int,
    said: Said,
    now: float,
    starts: Starts,
) -> dict[str, Any]:
    """Keep what an annotator says of an item that it was given, now or before; return the label.

    Raises:
        NotFoundError: it was given no such item.
        ConflictError: the task is closed; or the time was over and others have the item now.
        InvalidRequestError: it is no label of this task, or was changed too often.
    """
    _check_open(task)
    release(conn, task, now, starts)
    annotator = actor.owner
    this = (*_turns_of(task, annotator), turns.c.place == place)
    turn = conn.execute(sa.select(turns).where(*this)).mappings().first()
    if turn is None:
        raise NotFoundError(
            f"You were not given item {place}: ask for the next one, and label that.",
            param="place",
        )
    item = _item(conn, task, place)
    value = None if said.skip else checked_value(task.scheme, item.shown, said.value)
    if not said.skip and turn["state"] not in HOLDS and not _is_open(conn, task, place):
        raise ConflictError(
            f"Item {place} is others' now: its time was over, or it was skipped. Ask for the next."
        )
    given = (labels.c.task_id == task.id, labels.c.place == place, labels.c.role == LABEL)
    count = sa.select(sa.func.count()).where(*given, labels.c.annotator == annotator)
    if (conn.scalar(count) or 0) >= MAX_CHANGES:
        raise InvalidRequestError(f"Item {place} was labelled {MAX_CHANGES} times: that is all.")
    if said.skip:
        starts.forget(task.id)
    label = _insert(conn, task, actor, LABEL, place, value, said, item.suggested_by, now)
    state = {
        "state": SKIPPED if said.skip else LABELLED,
        "leased_until": None,
        "label_id": label["id"],
        "flagged": said.flag is not None,
    }
    conn.execute(turns.update().where(*this).values(**state))
    _recount(conn, task, [place])
    return label


def decide(
    conn: sa.Connection, task: Task, actor: Actor, place: int, value: Any, now: float
) -> dict[str, Any]:
    """Keep a reviewer's label of an item, which stands before all others'; return it.

    Raises:
        NotFoundError: there is no such item.
        InvalidRequestError: it is no label of this task.
    """
    item = _item(conn, task, place)
    value = checked_value(task.scheme, item.shown, value)
    label = _insert(conn, task, actor, FINAL, place, value, Said(), None, now)
    this = (items.c.task_id == task.id, items.c.place == place)
    conn.execute(items.update().where(*this).values(final_id=label["id"], is_open=False))
    return label


def consent(
    conn: sa.Connection, task: Task, actor: Actor, agree: bool, now: float, starts: Starts
) -> None:
    """Note that an annotator agrees to what the task says; or agrees no more, and then the labels
    that it gave count no more and its items are others' again.

    Raises:
        ConflictError: the task asks for no consent.
    """
    if not task.consent:
        raise ConflictError(f"Annotation task {task.id} asks for no consent: label its items.")
    if agree and has_agreed(conn, task, actor.owner):
        return
    mine = (
        annotation_consents.c.task_id == task.id,
        annotation_consents.c.annotator == actor.owner,
    )
    conn.execute(annotation_consents.delete().where(*mine))
    if agree:
        newest = conn.scalar(sa.select(sa.func.max(labels.c.id)).where(labels.c.task_id == task.id))
        values = {"task_id": task.id, "annotator": actor.owner, "owner": actor.owner}
        values |= {"after_id": newest or 0, "actor": actor.id, "at": now}
        conn.execute(annotation_consents.insert().values(**values))
        return
    starts.forget(task.id)
    conn.execute(turns.delete().where(*_turns_of(task, actor.owner)))
    _recount(conn, task)


def has_agreed(conn: sa.Connection, task: Task, annotator: str) -> bool:
    """Whether an annotator need agree to nothing, or has."""
    query = sa.select(annotation_consents.c.at).where(
        annotation_consents.c.task_id == task.id, annotation_consents.c.annotator == annotator
    )
    return not task.consent or conn.execute(query).first() is not None


def num_left(conn: sa.Connection, task: Task, annotator: str) -> int:
    """Return how many items an annotator may yet be given, as it looks now."""
    query = sa.select(sa.func.count()).where(
        items.c.task_id == task.id, items.c.is_open, ~_answered_by(task, annotator)
    )
    return int(conn.scalar(query) or 0)


def _check_open(task: Task) -> None:
    if task.state == OPEN:
        return
    why = "is closed" if task.state != "filling" else "has not all its items yet"
    told = f": `llmos jobs show {task.job_id}` says how far it is" if why.endswith("yet") else ""
    raise ConflictError(f"Annotation task {task.id} {why}{told}.")


def _turns_of(task: Task, annotator: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (turns.c.task_id == task.id, turns.c.annotator == annotator)


def _answered_by(task: Task, annotator: str) -> sa.ColumnElement[bool]:
    """The condition that an item is, or was, this annotator's, and was not lost for time."""
    theirs = sa.select(turns.c.place).where(
        *_turns_of(task, annotator), turns.c.place == items.c.place, turns.c.state != LAPSED
    )
    return theirs.exists()


def _is_open(conn: sa.Connection, task: Task, place: int) -> bool:
    this = (items.c.task_id == task.id, items.c.place == place)
    return bool(conn.scalar(sa.select(items.c.is_open).where(*this)))


def _item(conn: sa.Connection, task: Task, place: int) -> Item:
    columns = [items.c[name] for name in Item.__slots__]
    query = sa.select(*columns).where(items.c.task_id == task.id, items.c.place == place)
    row = conn.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(f"Annotation task {task.id} has no item {place}.", param="place")
    return Item(**row)


def _insert(
    conn: sa.Connection,
    task: Task,
    actor: Actor,
    role: str,
    place: int,
    value: Any,
    said: Said,
    suggested_by: str | None,
    now: float,
) -> dict[str, Any]:
    values = {
        "task_id": task.id,
        "place": place,
        "annotator": actor.owner,
        "role": role,
        "skipped": said.skip,
        "value": value,
        "flag": said.flag,
        "suggested_by": suggested_by,
        "actor": actor.id,
        "owner": actor.owner,
        "at": now,
        "size_bytes": len(msgspec.json.encode([value, said.flag])),
    }
    key = conn.execute(labels.insert().values(**values)).inserted_primary_key
    assert key is not None
    return {"id": int(key[0]), **values}


def _recount(conn: sa.Connection, task: Task, places: Iterable[int] | None = None) -> None:
    """Count anew who holds items, some or all of a task."""
    holding = (
        sa.select(sa.func.count())
        .where(
            turns.c.task_id == items.c.task_id,
            turns.c.place == items.c.place,
            turns.c.state.in_(HOLDS),
        )
        .scalar_subquery()
    )
    is_open = sa.and_(items.c.final_id.is_(None), holding < task.overlap)
    change = items.update().values(taken=holding, is_open=is_open)
    if places is None:
        conn.execute(change.where(items.c.task_id == task.id))
        return
    for place in places:
        conn.execute(change.where(items.c.task_id == task.id, items.c.place == place))
