"""Responses kept for their owners: to be read again, gone on from, or deleted.

A response is kept for 30 days, and from then on as long as it is gone on from: each continuation
renews the whole conversation. Of each owner the newest 256 MiB are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from llmos.errors import InvalidRequestError, NotFoundError
from llmos.security import audit
from llmos.storage.schema import responses

if TYPE_CHECKING:
    from llmos.security.actors import Actor
    from llmos.storage.database import Database

KEPT_S = 30 * 86400.0
MAX_OWNER_BYTES = 256 * 2**20
MAX_TURNS = 1000
Item = dict[str, Any]


class ResponseNotFoundError(NotFoundError):
    """There is no such response: it was deleted, is older than 30 days, or was never stored."""

    code = "response_not_found"


class PreviousResponseNotFoundError(InvalidRequestError):
    """The conversation cannot go on: the response it goes on from, or an earlier one, is gone."""

    code = "previous_response_not_found"


@dataclass(frozen=True, slots=True)
class Conversation:
    """The items of a response and of all it goes on from, the oldest first, with their ids."""

    ids: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as its client got it, and the items it was asked with."""

    body: dict[str, Any]
    input: list[Item]


class ResponseStore:
    """The stored responses of a home; each is there for its owner alone."""

    def __init__(
        self, db: Database, clock: Callable[[], float], max_owner_bytes: int = MAX_OWNER_BYTES
    ) -> None:
        self._db = db
        self._clock = clock
        self._max_owner_bytes = max_owner_bytes

    async def get(self, response_id: str, owner: str) -> StoredResponse:
        """Return a response. Raises ResponseNotFoundError, too where it is another owner's."""
        query = sa.select(responses.c.body, responses.c.input).where(
            *self._live(owner), responses.c.id == response_id
        )
        row = await self._db.read(lambda conn: conn.execute(query).first())
        if row is None:
            raise _not_found(response_id)
        return StoredResponse(row.body, row.input)

    async def conversation(self, response_id: str, owner: str, max_bytes: int) -> Conversation:
        """Return all that was said up to and with a response.

        Raises:
            PreviousResponseNotFoundError: it, or one it goes on from, is gone.
            InvalidRequestError: there is more than ``max_bytes``, or than 1000 responses.
        """
        rows = await self._db.read(lambda conn: self._chain(conn, response_id, owner))
        if not rows or (rows[-1].previous_id is not None and len(rows) < MAX_TURNS):
            raise PreviousResponseNotFoundError(param="previous_response_id")
        if len(rows) >= MAX_TURNS or sum(row.size_bytes for row in rows) > max_bytes:
            raise InvalidRequestError(
                f"The conversation has grown beyond {MAX_TURNS} responses or {max_bytes} bytes: "
                "begin a new one with what still matters of it.",
                param="previous_response_id",
            )
        ids = tuple(row.id for row in reversed(rows))
        found = await self._db.read(lambda conn: _items_of(conn, ids))
        if len(found) < len(ids):
            raise PreviousResponseNotFoundError(param="previous_response_id")
        return Conversation(ids, tuple(item for one in ids for item in found[one]))

    async def put(
        self, actor: Actor, body: dict[str, Any], items: Sequence[Item], earlier: Sequence[str]
    ) -> None:
        """Store a response; the ``earlier`` ones of its conversation are kept as long as it."""
        now = self._clock()
        values = {
            "id": body["id"],
            "owner": actor.owner,
            "previous_id": body["previous_response_id"],
            "created_at": now,
            "expires_at": now + KEPT_S,
            "size_bytes": len(msgspec.json.encode([body, items])),
            "input": list(items),
            "body": body,
        }

        def change(conn: sa.Connection) -> None:
            conn.execute(responses.insert().values(**values))
            if earlier:
                renewed = responses.update().where(responses.c.id.in_(list(earlier)))
                conn.execute(renewed.values(expires_at=now + KEPT_S))
            self._make_room(conn, actor.owner)
            detail = {"model": body["model"], "size_bytes": values["size_bytes"]}
            audit.record(conn, actor.id, "responses.create", body["id"], detail, now)

        await self._db.write(change)

    async def delete(self, response_id: str, actor: Actor) -> None:
        """Delete a response. Raises ResponseNotFoundError, too where it is another owner's."""
        now = self._clock()

        def change(conn: sa.Connection) -> None:
            wanted = (*self._live(actor.owner), responses.c.id == response_id)
            if conn.execute(responses.delete().where(*wanted)).rowcount == 0:
                raise _not_found(response_id)
            audit.record(conn, actor.id, "responses.delete", response_id, {}, now)

        await self._db.write(change)

    async def sweep(self, actor: Actor) -> int:
        """Delete every response whose time is over; return how many."""
        now = self._clock()

        def change(conn: sa.Connection) -> int:
            removed = conn.execute(responses.delete().where(responses.c.expires_at <= now)).rowcount
            if removed:
                audit.record(conn, actor.id, "responses.sweep", "", {"removed": removed}, now)
            return removed

        return await self._db.write(change)

    def _live(self, owner: str) -> tuple[sa.ColumnElement[bool], ...]:
        return (responses.c.owner == owner, responses.c.expires_at > self._clock())

    def _chain(self, conn: sa.Connection, response_id: str, owner: str) -> list[sa.Row[Any]]:
        """Return id, previous id and size of a response and those before it, the newest first."""
        columns = (responses.c.id, responses.c.previous_id, responses.c.size_bytes)
        first = sa.select(*columns, sa.literal(1).label("turn"))
        chain = first.where(*self._live(owner), responses.c.id == response_id).cte(recursive=True)
        earlier = sa.select(*columns, chain.c.turn + 1).where(
            *self._live(owner), responses.c.id == chain.c.previous_id, chain.c.turn < MAX_TURNS
        )
        chain = chain.union_all(earlier)
        return list(conn.execute(sa.select(chain).order_by(chain.c.turn)))

    def _make_room(self, conn: sa.Connection, owner: str) -> None:
        """Let go of an owner's oldest responses, as far as all together are too large."""
        sizes = sa.select(sa.func.sum(responses.c.size_bytes)).where(responses.c.owner == owner)
        if conn.execute(sizes).scalar_one() <= self._max_owner_bytes:
            return
        newest_first = (responses.c.created_at.desc(), responses.c.id)
        running = sa.func.sum(responses.c.size_bytes).over(order_by=newest_first)
        ranked = sa.select(responses.c.id, running.label("total")).where(responses.c.owner == owner)
        kept_to = ranked.subquery()
        too_old = sa.select(kept_to.c.id).where(kept_to.c.total > self._max_owner_bytes)
        conn.execute(responses.delete().where(responses.c.id.in_(too_old)))


def _items_of(conn: sa.Connection, ids: Sequence[str]) -> dict[str, list[Item]]:
    """Return the input and output items of each response that is there."""
    query = sa.select(responses.c.id, responses.c.input, responses.c.body)
    rows = conn.execute(query.where(responses.c.id.in_(list(ids))))
    return {row.id: [*row.input, *row.body["output"]] for row in rows}


def _not_found(response_id: str) -> ResponseNotFoundError:
    return ResponseNotFoundError(
        f"There is no response {response_id[:100]!r}: it was deleted, is older than 30 days, "
        "was never stored, or is another owner's."
    )
