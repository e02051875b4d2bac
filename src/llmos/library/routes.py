"""Routes: names that clients ask for, the models behind each with their weights, the fallbacks.

A user's route serves that user alone, one that an admin made everyone who has none of that name.
Who may use the models behind it, is looked at when a request comes.
Writing blocks on the database: call it off the event loop.
"""

from __future__ import annotations

import threading
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
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import routes, task_defaults, versions

MAX_MODELS = 16
"""Behind one route, and as many fallbacks."""
MAX_WEIGHT = 1e6
MAX_ROUTES = 100
"""Of one owner."""
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
        self._changing = threading.Lock()
        self._by_key: Mapping[tuple[str, str], Route] = {}  # owner and name; never changed, swapped
        self._names: frozenset[str] = frozenset()

    def load(self) -> None:
        """Read every route."""
        rows = self._db.read_sync(lambda conn: conn.execute(sa.select(routes)).all())
        self._keep({(row.owner, row.name): _route(row) for row in rows})

    def _keep(self, by_key: Mapping[tuple[str, str], Route]) -> None:
        self._by_key, self._names = by_key, frozenset(name for _, name in by_key)

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def find(self, name: str, actor: Actor) -> Route | None:
        """Return the route that this actor's requests for ``name`` mean, if any: its own before an
        operator's."""
        routes = self._by_key
        return routes.get((actor.owner, name)) or routes.get((OPERATOR, name))

    def shown_to(self, actor: Actor) -> list[Route]:
        """Return those that serve the actor, an admin's all, by name."""
        is_admin = actor.role == "admin"
        shown = (it for it in self._by_key.values() if is_admin or self.find(it.name, actor) is it)
        return sorted(shown, key=lambda route: (route.name, route.owner))

    def put(
        self, name: str, targets: Sequence[Target], fallbacks: Sequence[str], actor: Actor
    ) -> Route:
        """Make a route, or replace the owner's own of that name.

        Raises:
            InvalidNameError: the name is none, or one that llmos gives a meaning.
            ConflictError: a model, an adapter or a task has the name, or the owner has as many
                routes as one may have.
            ModelNotFoundError: a model is not there.
            InvalidRequestError: the models cannot stand in for each other, or there are too many.
            PermissionDeniedError: a model is not for this key.
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
        made = Route(name, tuple(targets), tuple(fallbacks), _owner_of(actor), now)

        def change(conn: sa.Connection) -> None:
            _check_free(conn, name)
            if not _removed(conn, made.owner, name):
                _check_number(conn, made.owner)
            conn.execute(routes.insert().values(**_row(made)))
            detail = {key: _row(made)[key] for key in ("targets", "fallbacks")}
            audit.record(conn, actor.id, "routes.set", name, detail, now)

        with self._changing:
            self._db.write_sync(change)
            self._keep({**self._by_key, (made.owner, name): made})
        return made

    def remove(self, name: str, actor: Actor, owner: str | None = None) -> None:
        """Remove a route of the actor's own, or of another owner.

        Raises:
            NotFoundError: there is none.
            PermissionDeniedError: the owner is another, and the actor no admin.
        """
        now, whose = self._clock(), owner or _owner_of(actor)
        policy.check(actor, "routes.write", name, owner=whose)

        def change(conn: sa.Connection) -> None:
            if not _removed(conn, whose, name):
                raise NotFoundError(
                    f"{whose[:80]} has no route {name[:80]!r}: `llmos route list` shows those "
                    "there are",
                    param="name",
                )
            audit.record(conn, actor.id, "routes.remove", name, {"owner": whose}, now)

        with self._changing:
            self._db.write_sync(change)
            self._keep({key: one for key, one in self._by_key.items() if key != (whose, name)})

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


def _check_number(conn: sa.Connection, owner: str) -> None:
    """Refuse one more route. Raises ConflictError."""
    mine = sa.select(sa.func.count()).where(routes.c.owner == owner)
    if conn.execute(mine).scalar_one() >= MAX_ROUTES:
        raise ConflictError(
            f"{owner} has {MAX_ROUTES} routes, which is all one may have: remove some with "
            "`llmos route rm`"
        )


def _removed(conn: sa.Connection, owner: str, name: str) -> bool:
    """Remove a route; returns whether there was one."""
    of_owner = (routes.c.owner == owner, routes.c.name == name)
    return conn.execute(routes.delete().where(*of_owner)).rowcount > 0


def _owner_of(actor: Actor) -> str:
    return OPERATOR if actor.role == "admin" else actor.owner
