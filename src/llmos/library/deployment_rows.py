"""A deployment as a value, and reading one from the database."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmos.errors import ConflictError, NotFoundError
from llmos.library import finding
from llmos.library.canary import Rules
from llmos.library.refs import ModelRef
from llmos.library.versions import Version
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.storage.schema import deployment_events, deployments


@dataclass(frozen=True, slots=True)
class Deployment:
    """An alias that moves by its gate; ``candidate`` gets ``weight`` (0..1) of its requests."""

    namespace: str
    name: str
    alias: str
    number: int
    candidate: int | None
    weight: float
    gates: tuple[str, ...]
    rules: Rules
    owner: str
    updated_at: float

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def ref(self) -> str:
        """What clients ask for: ``name@alias``."""
        return f"{self.full_name}@{self.alias}"

    @property
    def stable_ref(self) -> str:
        return f"{self.full_name}:{self.number}"

    @property
    def candidate_ref(self) -> str | None:
        return None if self.candidate is None else f"{self.full_name}:{self.candidate}"


@dataclass(frozen=True, slots=True)
class DeploymentEvent:
    """Something that happened to a deployment. ``at`` in Unix seconds."""

    action: str
    from_number: int | None
    to_number: int
    reason: str
    actor: str
    at: float


def get_deployment(conn: sa.Connection, ref: str, actor: Actor | None) -> Deployment:
    """Return a deployment by its name, for an actor if that is to change it.

    Raises:
        NotFoundError: there is none.
        PermissionDeniedError: it is another owner's.
    """
    wanted = ModelRef.parse(ref)
    found = wanted.alias and find_deployment(conn, wanted.namespace, wanted.name, wanted.alias)
    if not found or wanted.version is not None:
        raise NotFoundError(
            f"{wanted} is no deployment: `llmos deployments` lists them, as name@alias."
        )
    if actor is not None:
        policy.check(actor, "models.write", found.full_name, owner=found.owner)
    return found


def find_deployment(
    conn: sa.Connection, namespace: str, name: str, alias: str
) -> Deployment | None:
    """Return a deployment by its parts; None: there is none."""
    query = sa.select(deployments).where(
        deployments.c.namespace == namespace,
        deployments.c.name == name,
        deployments.c.alias == alias,
    )
    row = conn.execute(query).first()
    return None if row is None else deployment_of(row)


def version_of(conn: sa.Connection, deployment: Deployment, number: int) -> Version:
    """Return a version of what is deployed. Raises ModelNotFoundError."""
    name = ModelRef(deployment.namespace, deployment.name, number)
    return finding.find(conn, name, "model")


def number_before(conn: sa.Connection, deployment: Deployment) -> int:
    """Return the number that was there before. Raises ConflictError: there is none."""
    table = deployment_events
    query = (
        sa.select(table.c.from_number)
        .where(
            *named(deployment, table),
            table.c.to_number == deployment.number,
            table.c.action.in_(("deploy", "promote")),
        )
        .order_by(table.c.id.desc())
        .limit(1)
    )
    number = conn.execute(query).scalar()
    if number is None or number == deployment.number:
        raise ConflictError(f"{deployment.ref} has no version to go back to.")
    return version_of(conn, deployment, number).number


def named(
    deployment: Deployment, table: sa.Table = deployments
) -> tuple[sa.ColumnElement[bool], ...]:
    """Return the conditions that pick a deployment\'s rows of a table."""
    return (
        table.c.namespace == deployment.namespace,
        table.c.name == deployment.name,
        table.c.alias == deployment.alias,
    )


def row_of(deployment: Deployment) -> dict[str, Any]:
    """Return the columns of a deployment."""
    return dataclasses.asdict(deployment) | {"gates": list(deployment.gates)}


def deployment_of(row: sa.Row[Any]) -> Deployment:
    """Return the deployment that a row holds."""
    values = dict(row._mapping)
    return Deployment(**values | {"gates": tuple(row.gates), "rules": Rules(**row.rules)})
