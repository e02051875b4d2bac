"""Aliases: names of versions that move. Who may move one, and moving it, inside a transaction."""

from __future__ import annotations

import sqlalchemy as sa

from llmos.errors import ConflictError
from llmos.library.refs import ModelRef
from llmos.library.versions import LATEST, Version
from llmos.security.actors import Actor
from llmos.storage.schema import aliases, deployments


def check_alias(conn: sa.Connection, version: Version, alias: str, actor: Actor) -> None:
    """Refuse to move or drop another owner's alias; ``@latest`` moves by itself."""
    if alias == LATEST or actor.role == "admin":
        return
    ref = ModelRef(version.namespace, version.name)
    named = (*_named(aliases, version.kind, ref), aliases.c.alias == alias)
    holder = conn.execute(sa.select(aliases.c.owner).where(*named)).scalar()
    if holder not in (None, actor.owner):
        raise ConflictError(
            f"@{alias} of {version.full_name} belongs to {holder}: "
            "ask them or an admin to move it first",
            param="alias",
        )


def is_alias(conn: sa.Connection, version: Version, alias: str) -> bool:
    """Whether ``alias`` of the version's name means one."""
    named = _named(aliases, version.kind, ModelRef(version.namespace, version.name))
    found = conn.execute(sa.select(aliases.c.number).where(*named, aliases.c.alias == alias))
    return found.first() is not None


def check_not_deployed(conn: sa.Connection, version: Version, alias: str) -> None:
    """Refuse to move by hand what moves by its gate: a deployment."""
    query = sa.select(deployments.c.number).where(
        deployments.c.namespace == version.namespace,
        deployments.c.name == version.name,
        deployments.c.alias == alias,
    )
    if version.kind == "model" and conn.execute(query).scalar() is not None:
        raise ConflictError(
            f"{version.full_name}@{alias} is a deployment: `llmos deploy {version.ref} "
            f"--as {alias}` moves it, once its gate is passed",
            param="alias",
        )


def check_not_in_deployment(conn: sa.Connection, version: Version) -> None:
    """Refuse to remove a version that a deployment means, or tries."""
    query = sa.select(deployments.c.alias).where(
        deployments.c.namespace == version.namespace,
        deployments.c.name == version.name,
        (deployments.c.number == version.number) | (deployments.c.candidate == version.number),
    )
    alias = conn.execute(query.limit(1)).scalar()
    if version.kind == "model" and alias is not None:
        raise ConflictError(
            f"{version.ref} is deployed as {version.full_name}@{alias}: deploy another version "
            f"there first, or `llmos deployments rm {version.full_name}@{alias}`"
        )


def point(
    conn: sa.Connection, kind: str, ref: ModelRef, alias: str, number: int, owner: str, at: float
) -> None:
    """Make ``alias`` of the name mean version ``number``."""
    conn.execute(aliases.delete().where(*_named(aliases, kind, ref), aliases.c.alias == alias))
    conn.execute(
        aliases.insert().values(
            kind=kind,
            namespace=ref.namespace,
            name=ref.name,
            alias=alias,
            number=number,
            owner=owner,
            updated_at=at,
        )
    )


def _named(table: sa.Table, kind: str, ref: ModelRef) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.kind == kind, table.c.namespace == ref.namespace, table.c.name == ref.name)
