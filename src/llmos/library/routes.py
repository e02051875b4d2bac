"""Routes: names that clients ask for, the models behind each with their weights, the fallbacks.

A user's route serves that user alone, one that an admin made serves everyone. Who may use the
models behind it, is looked at when a request comes.
Writing blocks on the database: call it off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmos.errors import (
    ConflictError,
    InvalidNameError,
    InvalidRequestError,
    ModelNotFoundError,
    NotFoundError,
)
from llmos.library.bases import Finder, resolve_pair
from llmos.library.refs import ModelRef, is_name
from llmos.security import audit, policy
from llmos.security.actors import OPERATORS, Actor
from llmos.storage.database import Database
from llmos.storage.schema import routes, task_defaults, versions

MAX_MODELS = 16
"""Behind one route, and as many fallbacks."""
MAX_WEIGHT = 1e6
OPERATOR = "admin"
"""Owner of the routes that admins make, whatever their keys are called."""


@dataclass(frozen=True, slots=True)
class Target:
    """A model reference and its share of the requests; 0: none."""

    model: str
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """A name and what answers to it. ``updated_at`` is in Unix seconds."""

    name: str
    targets: tuple[Target, ...]
    fallbacks: tuple[str, ...]
    owner: str
    updated_at: float

    def serves(self, actor: Actor) -> bool:
        """Whether this actor's requests for the name mean this route."""
        return self.owner in OPERATORS or self.owner == actor.owner


class Routes:
    """Every route of one home, in memory and in the database.

    Args:
        clock: Unix seconds.
        reserved: names that no route may have.
    """

    def __init__(
        self,
        db: Database,
        library: Finder,
        clock: Callable[[], float],
        reserved: Collection[str] = (),
    ) -> None:
        self._db = db
        self._library = library
        self._clock = clock
        self._reserved = reserved
        self._by_name: Mapping[str, Route] = {}

    def load(self) -> None:
        """Read every route."""
        rows = self._db.read_sync(lambda conn: conn.execute(sa.select(routes)).all())
        self._by_name = {row.name: _route(row) for row in rows}

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def find(self, name: str, actor: Actor) -> Route | None:
        """Return the route that this actor's requests for ``name`` mean, if any."""
        route = self._by_name.get(name)
        return route if route is not None and route.serves(actor) else None

    def shown_to(self, actor: Actor) -> list[Route]:
        """Return those that serve the actor, an admin's all, by name."""
        shown = (it for it in self._by_name.values() if actor.role == "admin" or it.serves(actor))
        return sorted(shown, key=lambda route: route.name)

    def put(
        self, name: str, targets: Sequence[Target], fallbacks: Sequence[str], actor: Actor
    ) -> Route:
        """Make a route, or replace it.

        Raises:
            InvalidNameError: the name is none, or one that llmos gives a meaning.
            ConflictError: a model, an adapter or a task has the name.
            ModelNotFoundError: a model is not there.
            InvalidRequestError: the models cannot stand in for each other, or there are too many.
            PermissionDeniedError: the route is another owner's, or a model is not for this key.
        """
        if not is_name(name) or name in self._reserved:
            reason = "llmos itself gives it a meaning" if is_name(name) else "it is no plain name"
            raise InvalidNameError(
                f"{name[:80]!a} cannot name a route: {reason}; use letters, digits, '.', '_' and "
                "'-', as in support-chat",
                param="name",
            )
        self._check_models(targets, fallbacks, actor)
        now = self._clock()
        owner = OPERATOR if actor.role == "admin" else actor.owner
        made = Route(name, tuple(targets), tuple(fallbacks), owner, now)

        def change(conn: sa.Connection) -> None:
            _check_free(conn, name)
            _check_owner(conn, name, actor)
            conn.execute(routes.delete().where(routes.c.name == name))
            conn.execute(routes.insert().values(**_row(made)))
            detail = {key: _row(made)[key] for key in ("targets", "fallbacks")}
            audit.record(conn, actor.id, "routes.set", name, detail, now)

        self._db.write_sync(change)
        self.load()
        return made

    def remove(self, name: str, actor: Actor) -> None:
        """Remove a route. Raises NotFoundError, or PermissionDeniedError: it is another's."""
        now = self._clock()

        def change(conn: sa.Connection) -> None:
            if not _check_owner(conn, name, actor):
                raise NotFoundError(
                    f"there is no route {name[:80]!r}: `llmos route list` shows those there are",
                    param="name",
                )
            conn.execute(routes.delete().where(routes.c.name == name))
            audit.record(conn, actor.id, "routes.remove", name, {}, now)

        self._db.write_sync(change)
        self.load()

    def _check_models(
        self, targets: Sequence[Target], fallbacks: Sequence[str], actor: Actor
    ) -> None:
        for param, count in (("targets", len(targets)), ("fallbacks", len(fallbacks))):
            if count > MAX_MODELS:
                raise InvalidRequestError(
                    f"{param} has {count} models, but a route has at most {MAX_MODELS}", param=param
                )
        if not any(target.weight > 0 for target in targets):
            raise InvalidRequestError(
                "a route needs a model with a weight above 0", param="targets"
            )
        if wrong := [it for it in targets if not 0 <= it.weight <= MAX_WEIGHT]:
            raise InvalidRequestError(
                f"the weight of {wrong[0].model[:80]!r} must be between 0 and {MAX_WEIGHT:g}, not "
                f"{wrong[0].weight:g}",
                param="targets",
            )
        tasks: dict[str, str] = {}
        named = {"targets": [one.model for one in targets], "fallbacks": [*fallbacks]}
        for param, refs in named.items():
            for at, ref in enumerate(refs):
                if ref in refs[:at]:
                    raise InvalidRequestError(f"{ref[:80]!r} is given twice", param=param)
                tasks[self._task_of(ref, param, actor)] = ref
        if len(tasks) > 1:
            said = ", ".join(f"{ref} is for {task!r}" for task, ref in sorted(tasks.items()))
            raise InvalidRequestError(
                f"the models of a route stand in for each other, but {said}: use one task",
                param="targets",
            )

    def _task_of(self, ref: str, param: str, actor: Actor) -> str:
        """Return what a model is for, checked that ``ref`` names it itself and it may be used."""
        try:
            version, adapter = resolve_pair(self._library, ref)
        except (ModelNotFoundError, InvalidNameError) as error:
            error.param = param
            raise
        found = adapter or version
        asked = ModelRef.parse(ref.rpartition("+")[2]).full_name
        if asked != found.full_name:  # a task's default
            raise InvalidRequestError(
                f"{ref[:80]!r} is a task, not a model: name {found.full_name!r} itself", param=param
            )
        policy.check(actor, "generate", found.full_name)
        return str(found.manifest.get("task"))


def _route(row: sa.Row[Any]) -> Route:
    targets = tuple(Target(one["model"], one["weight"]) for one in row.targets)
    return Route(row.name, targets, tuple(row.fallbacks), row.owner, row.updated_at)


def _row(route: Route) -> dict[str, object]:
    return {
        "name": route.name,
        "targets": [{"model": one.model, "weight": one.weight} for one in route.targets],
        "fallbacks": [*route.fallbacks],
        "owner": route.owner,
        "updated_at": route.updated_at,
    }


def _check_free(conn: sa.Connection, name: str) -> None:
    """Refuse the name of a model, an adapter or a task: who asks for it means that."""
    live = (versions.c.namespace == "", versions.c.name == name, versions.c.removed_at.is_(None))
    kinds = versions.c.kind.in_(("model", "adapter"))
    kind = conn.execute(sa.select(versions.c.kind).where(*live, kinds).limit(1)).scalar()
    by_task = sa.select(task_defaults.c.task).where(task_defaults.c.task == name)
    if kind is None and conn.execute(by_task).scalar() is not None:
        kind = "task"
    if kind is not None:
        raise ConflictError(
            f"the {kind} {name!r} has this name already, and a route may not hide it: choose "
            "another name",
            param="name",
        )


def _check_owner(conn: sa.Connection, name: str, actor: Actor) -> bool:
    """Return whether there is such a route. Raises PermissionDeniedError: it is another's."""
    owner = conn.execute(sa.select(routes.c.owner).where(routes.c.name == name)).scalar()
    if owner is not None:
        policy.check(actor, "routes.write", name, owner=owner)
    return owner is not None
