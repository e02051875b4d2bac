"""The version of each model that is open to a choice by task, and whether that has changed.

Of every name it is the one with the alias ``production``, else the newest.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from llmos.library.versions import LATEST, Version, read_versions
from llmos.security.actors import SYSTEM
from llmos.storage.schema import aliases, evaluations, task_defaults, versions

PRODUCTION = "production"
Revision = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class TaskDefault:
    """The model that a task name answers with, and whether somebody said so: llmos gives its own
    models a task where none has one."""

    model: str
    is_chosen: bool


def revision(conn: sa.Connection) -> Revision:
    """Return what changes whenever the functions below, the meaning of a name, or what was measured
    of a version, may."""
    versioned = sa.select(sa.func.max(versions.c.id), sa.func.max(versions.c.removed_at))
    named = sa.select(
        sa.func.max(aliases.c.updated_at), sa.func.count(), sa.func.sum(aliases.c.number)
    )
    measured = sa.select(sa.func.max(evaluations.c.id))
    defaults = conn.execute(sa.select(task_defaults).order_by(task_defaults.c.task)).all()
    return (
        *conn.execute(versioned).one(),
        *conn.execute(named).one(),
        conn.execute(measured).scalar(),
        *map(tuple, defaults),
    )


def deployed(conn: sa.Connection) -> list[Version]:
    """Return one version of every model, by name."""
    wanted = sa.select(aliases).where(
        aliases.c.kind == "model", aliases.c.alias.in_((LATEST, PRODUCTION))
    )
    numbers: dict[tuple[str, str], int] = {}
    for row in conn.execute(wanted):
        if row.alias == PRODUCTION or (row.namespace, row.name) not in numbers:
            numbers[row.namespace, row.name] = row.number
    live = conn.execute(
        sa.select(versions.c.id, versions.c.namespace, versions.c.name, versions.c.number).where(
            versions.c.kind == "model", versions.c.removed_at.is_(None)
        )
    )
    ids = [row.id for row in live if numbers.get((row.namespace, row.name)) == row.number]
    return read_versions(conn, versions.c.id.in_(ids)) if ids else []


def read_defaults(conn: sa.Connection) -> dict[str, TaskDefault]:
    """Return the model that each task name answers with."""
    rows = conn.execute(sa.select(task_defaults))
    return {row.task: TaskDefault(row.model, row.owner != SYSTEM.owner) for row in rows}


def read_names(conn: sa.Connection) -> frozenset[str]:
    """Return the names, without namespaces, that a model or an adapter has."""
    query = sa.select(versions.c.name).distinct()
    live = (versions.c.namespace == "", versions.c.removed_at.is_(None))
    kinds = versions.c.kind.in_(("model", "adapter"))
    return frozenset(conn.execute(query.where(*live, kinds)).scalars())
