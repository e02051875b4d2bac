"""The audit trail: who changed what, written in the transaction that changes it.

Rows are append-only and hash-chained, so a later edit, insertion or removal in the middle shows.
(Cutting off the newest rows shows only against a head hash kept elsewhere.)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from llmos.errors import AuditError
from llmos.storage.schema import audit
from llmos.storage.statements import Statement

if TYPE_CHECKING:
    from llmos.storage.database import Database

GENESIS = "0" * 64
_VERIFY_BATCH_ROWS = 1000
_NEWEST = Statement(sa.select(audit.c.seq, audit.c.hash).order_by(audit.c.seq.desc()).limit(1))
_INSERT = Statement(audit.insert(), sets=[column.name for column in audit.c])


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One row of the trail; ``at`` in Unix seconds."""

    seq: int
    at: float
    actor: str
    action: str
    object: str
    detail: dict[str, Any]
    previous_hash: str
    hash: str


def record(
    conn: sa.Connection,
    actor: str,
    action: str,
    object: str,
    detail: Mapping[str, Any],
    at: float,
) -> AuditEvent:
    """Append an event inside the caller's write transaction.

    Args:
        actor: id of the acting ``Actor``; also the row's owner.
        action: what was done, ``noun.verb``.
        object: what it was done to.
        detail: plain JSON; never a secret.
        at: Unix seconds.
    """
    newest = _NEWEST.run(conn)
    seq, previous = (newest[0]["seq"] + 1, newest[0]["hash"]) if newest else (1, GENESIS)
    plain = json.loads(_canonical(dict(detail)))
    digest = _hash(seq, at, actor, action, object, plain, previous)
    event = AuditEvent(seq, at, actor, action, object, plain, previous, digest)
    row = {
        "seq": seq,
        "at": at,
        "actor": actor,
        "action": action,
        "object": object,
        "detail": plain,
        "previous_hash": previous,
        "hash": digest,
        "owner": actor,
    }
    _INSERT.run(conn, row)
    return event


def verify(db: Database) -> int:
    """Walk the whole chain and return the number of its rows.

    Raises:
        AuditError: a row was changed, added or removed; the message names the first such row.
    """

    def walk(conn: sa.Connection) -> int:
        previous, count = GENESIS, 0
        while rows := conn.execute(_page(after=count)).all():
            for row in rows:
                event = _event(row)
                if event.seq != count + 1:
                    raise AuditError(f"the audit trail is broken: row {count + 1} is missing")
                if event.previous_hash != previous or event.hash != _hash_of(event):
                    raise AuditError(f"the audit trail is broken: row {event.seq} was changed")
                previous, count = event.hash, event.seq
        return count

    return db.read_sync(walk)


def list_events(db: Database, limit: int = 100, before: int | None = None) -> list[AuditEvent]:
    """Return events, newest first; ``before`` is the ``seq`` to continue below."""
    query = sa.select(audit).order_by(audit.c.seq.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.seq < before)
    return db.read_sync(lambda conn: [_event(row) for row in conn.execute(query)])


def _page(after: int) -> sa.Select[Any]:
    query = sa.select(audit).where(audit.c.seq > after).order_by(audit.c.seq)
    return query.limit(_VERIFY_BATCH_ROWS)


def _event(row: sa.Row[Any]) -> AuditEvent:
    return AuditEvent(
        row.seq,
        row.at,
        row.actor,
        row.action,
        row.object,
        row.detail,
        row.previous_hash,
        row.hash,
    )


def _hash_of(event: AuditEvent) -> str:
    return _hash(
        event.seq,
        event.at,
        event.actor,
        event.action,
        event.object,
        event.detail,
        event.previous_hash,
    )


def _hash(*fields: Any) -> str:
    return hashlib.sha256(_canonical(fields).encode()).hexdigest()


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
