"""Labelling tasks of one home: made over a dataset's rows, their items given out, labels kept.

Each change is a transaction with its line in the audit trail, which has no label's words. What an
item's turn is, `annotation_queue` says; what is told, `annotation_reading`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from llmos.apps import annotation_queue as queue
from llmos.apps import annotation_reading as reading
from llmos.apps.annotation_rows import (
    CLOSED,
    FILLING,
    OPEN,
    Item,
    NewTask,
    Said,
    Task,
    Turn,
    check_room,
    find_run,
    find_task,
    task_of,
)
from llmos.data.annotation import agreement
from llmos.data.annotation.scheme import checked_value
from llmos.errors import ConflictError, InvalidRequestError, PermissionDeniedError
from llmos.kernel.transitions import KERNEL_ACTOR
from llmos.security import audit
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import (
    annotation_consents,
    annotation_items,
    annotation_labels,
    annotation_tasks,
    annotation_turns,
)

Told = dict[str, Any]


class Annotation:
    """The labelling tasks of one home.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._starts = queue.Starts()
        self.now = clock

    async def start(self) -> None:
        """Remove the tasks whose server ended before their job was queued, which nothing fills."""

        def change(conn: sa.Connection) -> None:
            lost = (annotation_tasks.c.state == FILLING, annotation_tasks.c.job_id.is_(None))
            for row in conn.execute(sa.select(annotation_tasks).where(*lost)).mappings().all():
                self._remove(conn, KERNEL_ACTOR, task_of(row))

        await self._db.write(change)

    # -- tasks -----------------------------------------------------------------------------------

    async def create(self, actor: Actor, new: NewTask) -> Task:
        """Make a task without items, which is to be filled.

        Raises:
            ConflictError: the owner has as many, or as large ones, as one may have.
        """
        values = {name: getattr(new, name) for name in NewTask.__slots__}
        values |= {"scheme": new.scheme.to_dict(), "annotators": list(new.annotators)}
        values |= {"state": FILLING, "left_out": {}, "owner": actor.owner, "created_at": self.now()}

        def change(conn: sa.Connection) -> Task:
            check_room(conn, actor.owner)
            insert = annotation_tasks.insert().values(**values).returning(annotation_tasks)
            task = task_of(conn.execute(insert).mappings().one())
            detail = {"name": new.name, "dataset": new.dataset, "kind": new.scheme.kind}
            self._audit(conn, actor.id, "annotation.create", task, detail)
            return task

        return await self._db.write(change)

    def filled_by(self, task: Task) -> Callable[[sa.Connection, Any], None]:
        """Return what notes, where the job that reads a task's rows is queued, which that is."""

        def note(conn: sa.Connection, job: Any) -> None:
            this = annotation_tasks.c.id == task.id
            conn.execute(annotation_tasks.update().where(this).values(job_id=job.id))

        return note

    async def get(self, actor: Actor, number: int) -> Task:
        """Return a task that the actor runs or annotates. Raises AnnotationNotFoundError."""
        return await self._db.read(lambda conn: find_task(conn, actor, number))

    async def run_by(self, actor: Actor, number: int) -> Task:
        """Return a task that the actor runs. Raises AnnotationNotFoundError, and
        PermissionDeniedError where it only annotates it."""
        return await self._db.read(lambda conn: find_run(conn, actor, number))

    async def visible(self, actor: Actor) -> list[Task]:
        """Return the tasks that an actor runs or annotates, the newest first."""
        query = sa.select(annotation_tasks).order_by(annotation_tasks.c.id.desc())
        found = await self._db.read(lambda conn: conn.execute(query).mappings().all())
        tasks = map(task_of, found)
        return [task for task in tasks if task.is_run_by(actor) or task.is_labelled_by(actor)]

    async def change(
        self,
        actor: Actor,
        number: int,
        *,
        annotators: Sequence[str] | None = None,
        instructions: str | None = None,
        closed: bool | None = None,
    ) -> Task:
        """Change who annotates a task, what they are told, and whether items are given out; None
        leaves it as it is. Labels of those who annotate no more stay.

        Raises:
            ConflictError: it has not all its items yet, so it is neither open nor closed.
        """
        given = {"annotators": annotators, "instructions": instructions, "closed": closed}
        values: Told = {name: value for name, value in given.items() if value is not None}

        def change(conn: sa.Connection) -> Task:
            task = find_run(conn, actor, number)
            changed = {name: value for name, value in values.items() if name != "closed"}
            if annotators is not None:
                changed["annotators"] = list(annotators)
            if closed is not None:
                if task.state == FILLING:
                    raise ConflictError(f"Annotation task {number} has not all its items yet.")
                changed["state"] = CLOSED if closed else OPEN
            this = annotation_tasks.c.id == number
            if changed:
                conn.execute(annotation_tasks.update().where(this).values(**changed))
            self._audit(conn, actor.id, "annotation.change", task, {"changed": sorted(values)})
            return find_run(conn, actor, number)

        return await self._db.write(change)

    async def remove(self, actor: Actor, number: int) -> Task:
        """Remove a task with all its labels; datasets that were made of them stay."""

        def change(conn: sa.Connection) -> Task:
            task = find_run(conn, actor, number)
            self._remove(conn, actor.id, task)
            return task

        return await self._db.write(change)

    def _remove(self, conn: sa.Connection, by: str, task: Task) -> None:
        for table in (annotation_consents, annotation_labels, annotation_turns, annotation_items):
            conn.execute(table.delete().where(table.c.task_id == task.id))
        conn.execute(annotation_tasks.delete().where(annotation_tasks.c.id == task.id))
        self._starts.forget(task.id)
        self._audit(conn, by, "annotation.remove", task, {"name": task.name})

    # -- what a job does -------------------------------------------------------------------------

    async def add_items(self, actor: Actor, number: int, new: Sequence[tuple[Item, float]]) -> None:
        """Add items, each with its rank, to a task that is being filled; those that are there
        already stay as they are.

        Raises:
            ConflictError: it is not being filled.
        """

        def change(conn: sa.Connection) -> None:
            task = find_run(conn, actor, number)
            if task.state != FILLING:
                raise ConflictError(f"Annotation task {number} has all its items.")
            rows = [_item_row(task, item, rank) for item, rank in new]
            insert = annotation_items.insert().prefix_with("OR IGNORE")
            self._starts.forget(number)
            conn.execute(insert, rows)

        await self._db.write(change)

    async def open(self, actor: Actor, number: int, left_out: Mapping[str, int]) -> Task:
        """Begin to give out the items of a task, which are all there.

        Args:
            left_out: why rows are no items -> how many.
        """

        def change(conn: sa.Connection) -> Task:
            task = find_run(conn, actor, number)
            if task.state == FILLING:
                values = {"state": OPEN, "left_out": dict(left_out)}
                this = annotation_tasks.c.id == number
                conn.execute(annotation_tasks.update().where(this).values(**values))
                self._audit(conn, actor.id, "annotation.open", task, {})
            return find_run(conn, actor, number)

        return await self._db.write(change)

    async def suggest(
        self, actor: Actor, number: int, model: str, suggestions: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep what a model suggests, ``{"place", "value", "confidence"}`` of each item, in place
        of what another did. Where the order is by uncertainty, the least confident comes first.

        Raises:
            InvalidRequestError: a value is no label of this task.
        """

        def change(conn: sa.Connection) -> None:
            task = find_run(conn, actor, number)
            places = [one["place"] for one in suggestions]
            this = (annotation_items.c.task_id == number, annotation_items.c.place.in_(places))
            query = sa.select(annotation_items.c.place, annotation_items.c.shown).where(*this)
            shown = {row.place: row.shown for row in conn.execute(query)}
            for one in suggestions:
                place, confidence = one["place"], one["confidence"]
                if place not in shown:
                    raise InvalidRequestError(f"There is no item {place}.", param="suggestions")
                values = {
                    "suggestion": checked_value(task.scheme, shown[place], one["value"]),
                    "suggested_by": model,
                    "confidence": confidence,
                }
                if task.order == "uncertain" and confidence is not None:
                    values["rank"] = confidence
                row = (annotation_items.c.task_id == number, annotation_items.c.place == place)
                conn.execute(annotation_items.update().where(*row).values(**values))
            self._starts.forget(number)
            detail = {"model": model, "items": len(suggestions)}
            self._audit(conn, actor.id, "annotation.suggest", task, detail)

        await self._db.write(change)

    # -- annotators ------------------------------------------------------------------------------

    async def consent(self, actor: Actor, number: int, agree: bool) -> None:
        """Agree to what a task asks annotators to; or agree no more, and then the actor's labels
        count no more.

        Raises:
            PermissionDeniedError: the actor is none of its annotators.
            ConflictError: it asks for nothing.
        """

        def change(conn: sa.Connection) -> None:
            task = _annotated(conn, actor, number)
            queue.consent(conn, task, actor, agree, self.now(), self._starts)
            self._audit(conn, actor.id, "annotation.consent", task, {"agree": agree})

        await self._db.write(change)

    async def next(self, actor: Actor, number: int) -> Turn | None:
        """Give the actor an item to label, the one that it has already, if any, again. None: there
        is none for it now.

        Raises:
            PermissionDeniedError: the actor is none of its annotators.
            ConflictError: the task is not open, or asks for a consent that was not given.
        """

        def change(conn: sa.Connection) -> Turn | None:
            task = _agreeing(conn, actor, number)
            return queue.take(conn, task, actor.owner, self.now(), self._starts)

        return await self._db.write(change)

    async def label(self, actor: Actor, number: int, place: int, said: Said) -> Told:
        """Keep what the actor says of an item that it was given; return the label. What is said
        again of the same item stands before what was said before, which stays in the history.

        Raises:
            LlmosError: as `annotation_queue.put` and `next`.
        """

        def change(conn: sa.Connection) -> Told:
            task = _agreeing(conn, actor, number)
            label = queue.put(conn, task, actor, place, said, self.now(), self._starts)
            detail = {"place": place, "label": label["id"], "skipped": said.skip}
            self._audit(conn, actor.id, "annotation.label", task, detail)
            return label

        return await self._db.write(change)

    async def own(self, actor: Actor, number: int) -> Told:
        """Return how far the actor is, see `annotation_reading.own_progress`, and whether it need
        agree to nothing, or has (``agreed``)."""

        def read(conn: sa.Connection) -> Told:
            task = find_task(conn, actor, number)
            agreed = queue.has_agreed(conn, task, actor.owner)
            return reading.own_progress(conn, task, actor.owner) | {"agreed": agreed}

        return await self._db.read(read)

    async def history(self, actor: Actor, number: int, before: int, limit: int) -> list[Told]:
        """Return labels with numbers below ``before``, the newest first: the actor's own, or all of
        a task that it runs."""

        def read(conn: sa.Connection) -> list[Told]:
            task = find_task(conn, actor, number)
            whose = None if task.is_run_by(actor) else actor.owner
            return reading.history(conn, task, whose, before, limit)

        return await self._db.read(read)

    # -- those who run it ------------------------------------------------------------------------

    async def decide(self, actor: Actor, number: int, place: int, value: Any) -> Told:
        """Keep a reviewer's label, which stands before the annotators'; return it."""

        def change(conn: sa.Connection) -> Told:
            task = find_run(conn, actor, number)
            label = queue.decide(conn, task, actor, place, value, self.now())
            detail = {"place": place, "label": label["id"]}
            self._audit(conn, actor.id, "annotation.decide", task, detail)
            return label

        return await self._db.write(change)

    async def ask(
        self, actor: Actor, number: int, question: Callable[[sa.Connection, Task], Any]
    ) -> Any:
        """Return what a function of `annotation_reading` tells of a task that the actor runs."""
        return await self._db.read(lambda conn: question(conn, find_run(conn, actor, number)))

    async def agreement(self, actor: Actor, number: int) -> Told:
        """Return how far the annotators agree, see `agreement.report`."""

        def read(conn: sa.Connection, task: Task) -> Told:
            return agreement.report(task.scheme, reading.units(conn, task))

        told: Told = await self.ask(actor, number, read)
        return told

    def _audit(self, conn: sa.Connection, by: str, action: str, task: Task, detail: Told) -> None:
        audit.record(conn, by, action, f"annotation:{task.id}", detail, self.now())


def _annotated(conn: sa.Connection, actor: Actor, number: int) -> Task:
    task = find_task(conn, actor, number)
    if not task.is_labelled_by(actor):
        raise PermissionDeniedError(
            f"{actor.owner} is none of the annotators of annotation task {number}: "
            "`llmos data annotate change --annotators` names them"
        )
    return task


def _agreeing(conn: sa.Connection, actor: Actor, number: int) -> Task:
    task = _annotated(conn, actor, number)
    if not queue.has_agreed(conn, task, actor.owner):
        raise ConflictError(
            f"Annotation task {number} asks for your consent first: read it with `llmos data "
            f"annotate show {number}`, and give it with `llmos data annotate consent {number}`."
        )
    return task


def _item_row(task: Task, item: Item, rank: float) -> Told:
    return {
        "task_id": task.id,
        "place": item.place,
        "row": item.row,
        "shown": item.shown,
        "rank": rank,
        "taken": 0,
        "is_open": True,
        "size_bytes": len(msgspec.json.encode(item.shown)),
        "owner": task.owner,
    }
