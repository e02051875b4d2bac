"""What is kept of annotation, as values: tasks, items, turns; who may do what with a task, and how
many one may have.

A task's owner, and admins, run it; those it names annotate. To others it is not there at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmos.data.annotation.scheme import Scheme, scheme_of
from llmos.errors import ConflictError, NotFoundError, PermissionDeniedError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.storage.schema import annotation_items, annotation_tasks

FILLING, OPEN, CLOSED = "filling", "open", "closed"
"""States of a task: its rows are being read; items are given out; they are no more."""
MAX_TASK_BYTES = 64 * 2**20
"""Of what is shown of all items of a task."""
MAX_TASKS = 1000
"""Of one owner."""
MAX_OWNER_BYTES = 256 * 2**20
"""Of what is shown of all items of an owner's tasks, of one that is being filled MAX_TASK_BYTES:
with more no other is made."""


class AnnotationNotFoundError(NotFoundError):
    """There is no such annotation task: `llmos data annotate ls` shows those there are."""

    code = "annotation_not_found"


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task to be made, see `Task`."""

    name: str
    dataset: str
    scheme: Scheme
    instructions: str = ""
    consent: str = ""
    overlap: int = 1
    annotators: tuple[str, ...] = ()
    order: str = "random"
    lease_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Task:
    """A labelling task.

    Attributes:
        dataset: the version whose rows are labelled, ``name:number``.
        scheme: what is asked of each.
        consent: what annotators must agree to first; empty: nothing.
        overlap: how many label each item.
        annotators: owners of keys; none: the owner alone.
        order: dataset, random, or uncertain: what a model was least sure of first.
        lease_s: for so long an item is one annotator's alone.
        left_out: why rows of the dataset are no items -> how many.
        job_id: the job that reads the rows.
        created_at: Unix seconds.
    """

    id: int
    name: str
    dataset: str
    scheme: Scheme
    instructions: str
    consent: str
    overlap: int
    annotators: tuple[str, ...]
    order: str
    lease_s: float
    state: str
    left_out: dict[str, int]
    job_id: int | None
    owner: str
    created_at: float

    def is_run_by(self, actor: Actor) -> bool:
        """Whether the actor may change it, and see everyone's labels."""
        return policy.is_of(actor, self.owner)

    def is_labelled_by(self, actor: Actor) -> bool:
        """Whether its items may be given to the actor."""
        return actor.owner in (self.annotators or (self.owner,))


@dataclass(frozen=True, slots=True)
class Item:
    """A row of a task.

    Attributes:
        place: of the row in its dataset, from 0.
        row: its id.
        suggestion: the label that the model ``suggested_by`` gives it, ``confidence`` in [0, 1]
            where the model tells.
    """

    place: int
    row: str
    shown: dict[str, Any]
    suggestion: Any = None
    suggested_by: str | None = None
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """An item that an annotator has, until ``leased_until`` (Unix seconds) alone."""

    item: Item
    leased_until: float


@dataclass(frozen=True, slots=True)
class Said:
    """What an annotator says of an item: its label, or that it is skipped; what is wrong there."""

    value: Any = None
    skip: bool = False
    flag: str | None = None


def check_room(conn: sa.Connection, owner: str) -> None:
    """Refuse an owner one more task. Raises ConflictError: it has as many, or as large ones, as one
    may have."""
    tasks = annotation_tasks.c
    filling = sa.select(tasks.id).where(tasks.owner == owner, tasks.state == FILLING)
    mine = sa.select(sa.func.count()).where(tasks.owner == owner)
    sizes = sa.select(sa.func.sum(annotation_items.c.size_bytes)).where(
        annotation_items.c.owner == owner, annotation_items.c.task_id.not_in(filling)
    )
    # One that is being filled may yet have as many as one may: those made at once count, too.
    num_bytes = (conn.scalar(sizes) or 0) + MAX_TASK_BYTES * len(conn.execute(filling).all())
    if (conn.scalar(mine) or 0) >= MAX_TASKS or num_bytes > MAX_OWNER_BYTES:
        raise ConflictError(
            f"Your annotation tasks are {MAX_TASKS}, or what they show, with "
            f"{MAX_TASK_BYTES >> 20} MiB for each that has not all its items yet, over "
            f"{MAX_OWNER_BYTES >> 20} MiB, which is all one may have: wait, or "
            "remove some with `llmos data annotate rm`."
        )


def find_task(conn: sa.Connection, actor: Actor, number: int) -> Task:
    """Return a task that the actor runs or annotates.

    Raises:
        AnnotationNotFoundError: there is none.
    """
    query = sa.select(annotation_tasks).where(annotation_tasks.c.id == number)
    row = conn.execute(query).mappings().first()
    task = None if row is None else task_of(row)
    if task is None or not (task.is_run_by(actor) or task.is_labelled_by(actor)):
        raise AnnotationNotFoundError(
            f"There is no annotation task {number}: `llmos data annotate ls` shows those there are."
        )
    return task


def find_run(conn: sa.Connection, actor: Actor, number: int) -> Task:
    """Return a task that the actor runs.

    Raises:
        AnnotationNotFoundError: there is none that it may know of.
        PermissionDeniedError: it only annotates it.
    """
    task = find_task(conn, actor, number)
    if not task.is_run_by(actor):
        raise PermissionDeniedError(
            f"annotation task {number} is another owner's: you may label its items, and no more"
        )
    return task


def task_of(row: Mapping[Any, Any]) -> Task:
    """Return a row of the table as a task."""
    values = dict(row)
    values["scheme"] = scheme_of(values["scheme"])
    values["annotators"] = tuple(values["annotators"])
    return Task(**values)
