"""Deployments: aliases that people rely on, which move only to a version that passes their gate.

A candidate may get a part of the requests first; it is promoted, or taken back. Whoever was being
answered by a version goes on being answered by it: an alias says what is asked next.
Methods block on the database: call them off the event loop.
"""

from __future__ import annotations

import builtins
import dataclasses
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from llmos.errors import ConflictError, InvalidNameError, InvalidRequestError
from llmos.library import finding
from llmos.library.aliases import check_alias, is_alias, point
from llmos.library.canary import Rules
from llmos.library.deployment_rows import (
    Deployment,
    DeploymentEvent,
    deployment_of,
    find_deployment,
    get_deployment,
    named,
    number_before,
    row_of,
    version_of,
)
from llmos.library.evaluations import measured
from llmos.library.gates import Check, Gate, check_gates, parse_gates, require
from llmos.library.refs import ModelRef, is_name
from llmos.library.versions import LATEST, Version
from llmos.security import audit, policy
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import deployment_events, deployments

T = TypeVar("T")

MAX_HISTORY = 1000


class Deployments:
    """The deployments of one home.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, db: Database, clock: Callable[[], float]) -> None:
        self._db = db
        self._clock = clock
        self._lock = threading.Lock()
        self._canaries: Mapping[str, Deployment] = {}

    def load(self) -> None:
        """Read which deployments have a candidate, for `canary`."""
        with self._lock:  # of two readers, the later one must not be overtaken
            self._canaries = {one.ref: one for one in self.list() if one.candidate is not None}

    def has_canaries(self) -> bool:
        """Whether any deployment has a candidate."""
        return bool(self._canaries)

    def canary(self, ref: str) -> Deployment | None:
        """Return the deployment that clients ask for so, if it has a candidate: a look into a
        dict."""
        return self._canaries.get(ref)

    def deploy(
        self,
        ref: str,
        alias: str,
        actor: Actor,
        *,
        gates: Sequence[str] | None = None,
        rules: Rules | None = None,
        weight: float = 1.0,
    ) -> tuple[Deployment, tuple[Check, ...]]:
        """Let an alias mean a version, or with a ``weight`` below 1 give that so much of what is
        asked of the alias; where that means nothing yet, all of it.

        Args:
            gates: must hold now and for later versions; None: those it has.
            rules: when a candidate is taken back; None: those it has, or the defaults.

        Raises:
            GateFailedError: a gate does not hold; nothing was changed.
            InvalidRequestError: a gate is none, or on a metric that a version does not have, or not
                of the same data; the weight is not one; what a candidate would be beside is not
                deployed.
            InvalidNameError, ModelNotFoundError, PermissionDeniedError, ConflictError: the alias is
                no name, there is no such version, or one of them is another owner's.
        """
        return self._write(
            lambda conn: self.deploy_in(conn, ref, alias, actor, gates, rules, weight)
        )

    def deploy_in(
        self,
        conn: sa.Connection,
        ref: str,
        alias: str,
        actor: Actor,
        gates: Sequence[str] | None = None,
        rules: Rules | None = None,
        weight: float = 1.0,
    ) -> tuple[Deployment, tuple[Check, ...]]:
        """`deploy` inside the caller's write transaction; `load` when that has ended."""
        version, old, new, wanted = self._wanted(conn, ref, alias, actor, gates, rules, weight)
        checks = _held(conn, version, old, wanted, actor)
        require(checks, version.ref)
        action = "deploy" if new.candidate is None else "canary"
        self._keep(conn, old, new, action, version.number, actor, "; ".join(map(str, checks)))
        return new, checks

    def check(
        self,
        ref: str,
        alias: str,
        actor: Actor,
        *,
        gates: Sequence[str] | None = None,
        rules: Rules | None = None,
        weight: float = 1.0,
        promised: Callable[[str], bool],
    ) -> None:
        """Raise what `deploy` would, but for a gate that does not hold: it may, later.

        Args:
            promised: whether a metric will be there by then, so that it is not looked for.
        """

        def read(conn: sa.Connection) -> None:
            version, old, _, wanted = self._wanted(conn, ref, alias, actor, gates, rules, weight)
            left = [gate for gate in wanted if not promised(gate.metric)]
            _held(conn, version, old, left, actor)

        self._db.read_sync(read)

    def promote(self, ref: str, actor: Actor) -> tuple[Deployment, tuple[Check, ...]]:
        """Let the alias ``name@alias`` mean its candidate.

        Raises:
            GateFailedError: the candidate does not pass the gate (any more).
            ConflictError: it has no candidate.
            NotFoundError, PermissionDeniedError: it is no deployment, or another owner's.
        """

        def change(conn: sa.Connection) -> tuple[Deployment, tuple[Check, ...]]:
            old = get_deployment(conn, ref, actor)
            if old.candidate is None:
                raise ConflictError(f"{old.ref} has no candidate: there is nothing to promote.")
            candidate = version_of(conn, old, old.candidate)
            checks = _held(conn, candidate, old, parse_gates(old.gates), actor)
            require(checks, candidate.ref)
            new = dataclasses.replace(
                old, number=old.candidate, candidate=None, weight=0.0, updated_at=self._clock()
            )
            reason = "; ".join(map(str, checks))
            self._keep(conn, old, new, "promote", new.number, actor, reason)
            return new, checks

        return self._write(change)

    def rollback(
        self, ref: str, actor: Actor, *, reason: str = "", candidate: int | None = None
    ) -> Deployment:
        """Take the candidate of ``name@alias`` back; where there is none, go back to the version
        that was there before.

        Args:
            candidate: take back this one only; another, or none, is left alone.

        Raises:
            ConflictError: there is no version to go back to, or the candidate is another by now.
            NotFoundError, PermissionDeniedError: it is no deployment, or another owner's.
        """

        def change(conn: sa.Connection) -> Deployment:
            old = get_deployment(conn, ref, actor)
            if candidate is not None and old.candidate != candidate:
                raise ConflictError(f"The candidate of {old.ref} is not :{candidate} any more.")
            number = old.number if old.candidate is not None else number_before(conn, old)
            new = dataclasses.replace(
                old, number=number, candidate=None, weight=0.0, updated_at=self._clock()
            )
            self._keep(conn, old, new, "rollback", number, actor, reason)
            return new

        return self._write(change)

    def remove(self, ref: str, actor: Actor) -> Deployment:
        """Let ``name@alias`` be an alias like any other again; it goes on meaning what it means.

        Raises:
            NotFoundError, PermissionDeniedError: it is no deployment, or another owner's.
        """

        def change(conn: sa.Connection) -> Deployment:
            old = get_deployment(conn, ref, actor)
            conn.execute(deployments.delete().where(*named(old)))
            audit.record(conn, actor.id, "deployments.remove", old.ref, {}, self._clock())
            return old

        return self._write(change)

    # -- reading ---------------------------------------------------------------------------------

    def list(self) -> builtins.list[Deployment]:
        """Return every deployment, by name and alias."""
        order = (deployments.c.namespace, deployments.c.name, deployments.c.alias)
        query = sa.select(deployments).order_by(*order)
        return self._db.read_sync(lambda conn: [deployment_of(row) for row in conn.execute(query)])

    def get(self, ref: str) -> Deployment:
        """Return the deployment ``name@alias``. Raises NotFoundError."""
        return self._db.read_sync(lambda conn: get_deployment(conn, ref, None))

    def history(self, ref: str, limit: int = 100) -> builtins.list[DeploymentEvent]:
        """Return what happened to ``name@alias``, the newest first. Raises NotFoundError."""

        def read(conn: sa.Connection) -> builtins.list[DeploymentEvent]:
            table = deployment_events
            query = (
                sa.select(table)
                .where(*named(get_deployment(conn, ref, None), table))
                .order_by(table.c.id.desc())
                .limit(min(limit, MAX_HISTORY))
            )
            return [
                DeploymentEvent(r.action, r.from_number, r.to_number, r.reason, r.actor, r.at)
                for r in conn.execute(query)
            ]

        return self._db.read_sync(read)

    # -- inside ----------------------------------------------------------------------------------

    def _wanted(
        self,
        conn: sa.Connection,
        ref: str,
        alias: str,
        actor: Actor,
        gates: Sequence[str] | None,
        rules: Rules | None,
        weight: float,
    ) -> tuple[Version, Deployment | None, Deployment, tuple[Gate, ...]]:
        """Return the version to deploy, the deployment there is, the one there would be, and what
        the version must pass for that."""
        check_name(alias)
        if not 0.0 < weight <= 1.0:
            raise InvalidRequestError(
                f"weight must be above 0 and at most 1, not {weight:g}.", param="weight"
            )
        version = finding.find(conn, ModelRef.parse(ref), "model")
        policy.check(actor, "models.write", version.ref, owner=version.owner)
        check_alias(conn, version, alias, actor)
        old = find_deployment(conn, version.namespace, version.name, alias)
        parsed = parse_gates(old.gates if gates is None and old else tuple(gates or ()))
        new = Deployment(
            namespace=version.namespace,
            name=version.name,
            alias=alias,
            number=version.number,
            candidate=None,
            weight=0.0,
            gates=tuple(map(str, parsed)),
            rules=rules or (old.rules if old else Rules()),
            owner=old.owner if old else actor.owner,
            updated_at=self._clock(),
        )
        if weight < 1.0 and (old or is_alias(conn, version, alias)):
            new = _with_candidate(new, old, weight)
        return version, old, new, parsed

    def _write(self, change: Callable[[sa.Connection], T]) -> T:
        """Change deployments, and know which have a candidate from then on."""
        value = self._db.write_sync(change)
        self.load()
        return value

    def _keep(
        self,
        conn: sa.Connection,
        old: Deployment | None,
        new: Deployment,
        action: str,
        to_number: int,
        actor: Actor,
        reason: str,
    ) -> None:
        """Write a deployment, move its alias, and leave the event and the audit."""
        name = ModelRef(new.namespace, new.name)
        if old is None or old.number != new.number:
            point(conn, "model", name, new.alias, new.number, new.owner, new.updated_at)
        conn.execute(deployments.delete().where(*named(new)))
        conn.execute(deployments.insert().values(row_of(new)))
        from_number = None if old is None else _was(old, action)
        values: dict[str, Any] = {"action": action, "from_number": from_number}
        values |= {"to_number": to_number, "reason": reason[:2000]}
        its_name = {"namespace": new.namespace, "name": new.name, "alias": new.alias}
        event = {**its_name, **values, "actor": actor.id, "owner": new.owner, "at": new.updated_at}
        conn.execute(deployment_events.insert().values(event))
        audit.record(conn, actor.id, f"deployments.{action}", new.ref, values, new.updated_at)


def _held(
    conn: sa.Connection,
    version: Version,
    old: Deployment | None,
    gates: Sequence[Gate],
    actor: Actor,
) -> tuple[Check, ...]:
    """Hold a version that an actor wants in the place of ``old``'s against gates. Raises as
    `check_gates`."""
    believed = {actor.owner} if old is None else {actor.owner, old.owner}
    current = None
    if old is not None:
        current = measured(conn, version_of(conn, old, old.number), believed)
    return check_gates(gates, measured(conn, version, believed), current)


def check_name(alias: str) -> None:
    """Raise InvalidNameError for an alias that cannot be a deployment's."""
    if not is_name(alias) or alias == LATEST:
        raise InvalidNameError(
            f"{alias[:80]!a} cannot be deployed to: use letters, digits, '.', '_' and '-', and not "
            "'latest', which always means the newest version",
            param="alias",
        )


def _with_candidate(new: Deployment, old: Deployment | None, weight: float) -> Deployment:
    """Return the deployment that stays at its version, the new one its candidate."""
    if old is None:
        raise InvalidRequestError(
            f"{new.ref} is an alias that was made by hand, so a candidate has nothing to be "
            "compared with: deploy a version whole first.",
            param="weight",
        )
    if old.number == new.number:
        raise InvalidRequestError(f"{new.stable_ref} is what {new.ref} means.", param="model")
    return dataclasses.replace(new, number=old.number, candidate=new.number, weight=weight)


def _was(old: Deployment, action: str) -> int:
    """Return what an action leads away from: a rollback from the candidate, where there is one."""
    is_taken_back = action == "rollback" and old.candidate is not None
    return old.candidate if is_taken_back and old.candidate is not None else old.number
