"""What is told of annotation: labels by item, the history, how far it is, what wants a reviewer.
Functions over a connection; they change nothing.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa

from llmos.apps.annotation_queue import FINAL, LABEL, LABELLED, SKIPPED, num_left
from llmos.apps.annotation_rows import Item, Task
from llmos.data.annotation.settling import differ, settled
from llmos.storage.schema import (
    annotation_consents,
    annotation_items,
    annotation_labels,
    annotation_turns,
)

items, turns, labels = annotation_items, annotation_turns, annotation_labels
MAX_ID = 2**63 - 1
PAGE_ITEMS = 100
PAGE_BYTES = 4 * 2**20
"""Of labels and items that are told at once, but for the first item's."""
_TOLD = ("id", "annotator", "role", "skipped", "value", "flag", "suggested_by", "actor", "at")

Told = dict[str, Any]


def newest_label(conn: sa.Connection, task: Task) -> int:
    """Return the number of the newest label of a task; 0 for none."""
    newest = sa.select(sa.func.max(labels.c.id)).where(labels.c.task_id == task.id)
    return int(conn.scalar(newest) or 0)


def labelled(
    conn: sa.Connection, task: Task, after: int, limit: int, upto: int = MAX_ID
) -> list[Told]:
    """Return items that have labels, in order, from behind the place ``after``: ``{"place", "row",
    "shown", "labels": [label], "final": label or None}``, of each annotator the newest label.

    Args:
        limit: how many at most; of large ones come fewer, but for the last at least one.
        upto: labels with higher numbers are not looked at.
    """
    given = (labels.c.task_id == task.id, labels.c.id <= upto)
    sizes = (
        sa.select(labels.c.place, sa.func.sum(labels.c.size_bytes))
        .where(*given, labels.c.place > after)
        .group_by(labels.c.place)
        .order_by(labels.c.place)
        .limit(limit)
    )
    places = _within(conn.execute(sizes))
    if not places:
        return []
    some = labels.c.place.between(places[0], places[-1])
    newest = (
        sa.select(sa.func.max(labels.c.id))
        .where(*given, some)
        .group_by(labels.c.place, labels.c.annotator, labels.c.role)
    )
    rows = conn.execute(
        sa.select(labels)
        .where(labels.c.id.in_(newest), sa.or_(labels.c.role == FINAL, _counts(task)))
        .order_by(labels.c.place, labels.c.id)
    )
    found: dict[int, Told] = {
        item["place"]: {
            **{name: item[name] for name in ("place", "row", "shown")},
            "labels": [],
            "final": None,
        }
        for item in _items(conn, task, items.c.place.in_(places))
    }
    for row in rows.mappings():
        told = {name: row[name] for name in _TOLD}
        if row["role"] == LABEL:
            found[row["place"]]["labels"].append(told)
        else:
            found[row["place"]]["final"] = told
    return list(found.values())


def items_from(conn: sa.Connection, task: Task, after: int, limit: int) -> list[Told]:
    """Return items in order, from behind the place ``after``, as `Item` has them; of large ones
    fewer than ``limit``."""
    sizes = (
        sa.select(items.c.place, items.c.size_bytes)
        .where(items.c.task_id == task.id, items.c.place > after)
        .order_by(items.c.place)
        .limit(limit)
    )
    places = _within(conn.execute(sizes))
    return _items(conn, task, items.c.place.in_(places))


def review(
    conn: sa.Connection, task: Task, after: int, limit: int, undecided: bool
) -> tuple[list[Told], int | None]:
    """Return items that want a reviewer, and the place to go on behind, None at the end: those
    with all their labels where these differ, and those that were flagged; none that a reviewer has
    decided. Each has ``settled``, what it comes to without one.

    Args:
        undecided: only those that come to nothing, or were flagged.
    """
    found: list[Told] = []
    while page := labelled(conn, task, after, PAGE_ITEMS):
        for item in page:
            after = item["place"]
            values = values_of(item)
            came = settled(task.scheme, values)
            is_flagged = any(label["flag"] for label in item["labels"])
            differs = len(values) >= task.overlap and differ(values)
            wants = is_flagged or (differs and (came is None or not undecided))
            if item["final"] is None and wants:
                found.append(item | {"settled": came})
                if len(found) == limit:
                    return found, after
    return found, None


def values_of(item: Told) -> list[Any]:
    """Return the labels of an item that are not skips, by themselves."""
    return [label["value"] for label in item["labels"] if not label["skipped"]]


def history(
    conn: sa.Connection, task: Task, annotator: str | None, before: int, limit: int
) -> list[Told]:
    """Return labels, all there ever were, the newest first: of an annotator or of all."""
    query = sa.select(labels).where(labels.c.task_id == task.id, labels.c.id < before)
    if annotator is not None:
        query = query.where(labels.c.annotator == annotator)
    query = query.order_by(labels.c.id.desc()).limit(limit)
    found: list[Told] = []
    num_bytes = 0
    for row in conn.execute(query).mappings():
        num_bytes += row["size_bytes"]
        if found and num_bytes > PAGE_BYTES:
            break
        found.append({"place": row["place"]} | {name: row[name] for name in _TOLD})
    return found


def units(conn: sa.Connection, task: Task) -> Iterator[dict[str, Any]]:
    """Yield each item's labels by annotator, as agreement is measured on them."""
    query = (
        sa.select(turns.c.place, turns.c.annotator, labels.c.value)
        .join(labels, labels.c.id == turns.c.label_id)
        .where(turns.c.task_id == task.id, turns.c.state == LABELLED)
        .order_by(turns.c.place)
    )
    at, unit = -1, dict[str, Any]()
    for row in conn.execute(query):
        if row.place != at and unit:
            yield unit
            unit = {}
        at = row.place
        value = row.value
        if task.scheme.kind == "text":  # only whether they are the same
            value = hashlib.blake2b(value.encode(), digest_size=16).hexdigest()
        unit[row.annotator] = value
    if unit:
        yield unit


def progress(conn: sa.Connection, task: Task) -> Told:
    """Return how far a task is: ``{"items", "complete", "decided", "suggested", "labels",
    "annotators": [{"annotator", "labelled", "skipped", "flagged"}]}``: complete are items with all
    their labels or a reviewer's, decided those with a reviewer's."""
    mine = items.c.task_id == task.id
    counts = conn.execute(
        sa.select(
            sa.func.count(), sa.func.count(items.c.final_id), sa.func.count(items.c.suggested_by)
        ).where(mine)
    ).one()
    enough = (
        sa.select(turns.c.place)
        .where(turns.c.task_id == task.id, turns.c.state == LABELLED)
        .group_by(turns.c.place)
        .having(sa.func.count() >= task.overlap)
    )
    complete = sa.select(sa.func.count()).where(
        mine, sa.or_(items.c.final_id.is_not(None), items.c.place.in_(enough))
    )
    told = [{"annotator": name, **_counts_of(one)} for name, one in _by_annotator(conn, task)]
    return {
        "items": counts[0],
        "complete": int(conn.scalar(complete) or 0),
        "decided": counts[1],
        "suggested": counts[2],
        "labels": sum(one["labelled"] for one in told),
        "annotators": told,
    }


def own_progress(conn: sa.Connection, task: Task, annotator: str) -> Told:
    """Return how far one annotator is: ``{"labelled", "skipped", "flagged", "left"}``; left: items
    that it may yet be given."""
    counts = dict(_by_annotator(conn, task, annotator)).get(annotator, [])
    return {**_counts_of(counts), "left": num_left(conn, task, annotator)}


def _items(conn: sa.Connection, task: Task, which: sa.ColumnElement[bool]) -> list[Told]:
    columns = [items.c[name] for name in Item.__slots__]
    query = sa.select(*columns).where(items.c.task_id == task.id, which).order_by(items.c.place)
    return [dict(row) for row in conn.execute(query).mappings()]


def _by_annotator(
    conn: sa.Connection, task: Task, annotator: str | None = None
) -> list[tuple[str, list[sa.Row[Any]]]]:
    columns = (turns.c.annotator, turns.c.state, turns.c.flagged)
    query = sa.select(*columns, sa.func.count().label("num")).where(turns.c.task_id == task.id)
    if annotator is not None:
        query = query.where(turns.c.annotator == annotator)
    found: defaultdict[str, list[sa.Row[Any]]] = defaultdict(list)
    for row in conn.execute(query.group_by(*columns)):
        found[row.annotator].append(row)
    return sorted(found.items())


def _counts_of(rows: Sequence[sa.Row[Any]]) -> dict[str, int]:
    return {
        "labelled": sum(row.num for row in rows if row.state == LABELLED),
        "skipped": sum(row.num for row in rows if row.state == SKIPPED),
        "flagged": sum(row.num for row in rows if row.flagged),
    }


def _counts(task: Task) -> sa.ColumnElement[bool]:
    """The condition that a label's annotator agrees, and did when giving it."""
    if not task.consent:
        return sa.true()
    agreed = sa.select(annotation_consents.c.at).where(
        annotation_consents.c.task_id == task.id,
        annotation_consents.c.annotator == labels.c.annotator,
        annotation_consents.c.after_id < labels.c.id,
    )
    return agreed.exists()


def _within(sizes: Iterable[Sequence[Any]]) -> list[int]:
    """Return the places whose labels are told at once."""
    places: list[int] = []
    num_bytes = 0
    for place, size_bytes in sizes:
        num_bytes += size_bytes
        if places and num_bytes > PAGE_BYTES:
            break
        places.append(place)
    return places
