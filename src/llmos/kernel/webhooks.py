"""Webhooks: who wants to be sent which events, and the events that are to be sent to them.

An event is written down for each webhook that wants it in the transaction of the change it tells
of, so that none is lost. `deliveries` sends them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import Connection, RowMapping, delete, func, insert, select, update

from llmos.errors import ConflictError, NotFoundError
from llmos.kernel.job_rows import MAX_ID
from llmos.kernel.transitions import Audit
from llmos.security import signatures
from llmos.security.actors import Actor
from llmos.storage.database import Database
from llmos.storage.schema import deliveries, webhooks

EVENTS = tuple(
    f"{noun}.{verb}"
    for noun, verbs in (
        ("job", ("queued", "started", "succeeded", "failed", "cancelled")),
        ("run", ("started", "succeeded", "failed", "cancelled")),
    )
    for verb in verbs
)
"""What can happen to a job, and to the run of a pipeline."""
MAX_WEBHOOKS = 10
"""Of one owner."""
MAX_PENDING = 10_000
"""Deliveries that may wait for one webhook."""
NUM_DROPPED = 100
"""Of the oldest, when there are more."""

DeliveryState = Literal["pending", "delivered", "dead"]


@dataclass(frozen=True, slots=True)
class Webhook:
    """One row of the webhooks table, but for its secret."""

    id: int
    url: str
    events: tuple[str, ...]
    owner: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event that was, or is to be, sent to one webhook. Times are Unix seconds."""

    id: int
    webhook_id: int
    event: str
    payload: dict[str, Any]
    state: DeliveryState
    attempt: int
    """Attempts so far."""
    not_before: float
    error: str | None
    """Why the last attempt failed; None when it did not."""
    owner: str
    created_at: float


class Webhooks:
    """Keeps webhooks, and puts down what is to be sent to them: the kernel's `Outbox`.

    Args:
        clock: Unix seconds.
        check: raises LlmosError for an address that nothing is sent to, see `security.outbound`.
        audit: called in the transaction of each change, see `transitions.Audit`.
    """

    def __init__(
        self,
        db: Database,
        clock: Callable[[], float],
        check: Callable[[str], Awaitable[None]],
        *,
        audit: Audit | None = None,
    ) -> None:
        self._db = db
        self._clock = clock
        self._check = check
        self._audit = audit
        self._owners: frozenset[str] = frozenset()
        self._room: dict[int, int] = {}
        """How many more may wait for a webhook, at least. Only the thread that writes looks."""
        self.woken: Callable[[], None] = lambda: None
        """Called when there is something to send; whoever sends puts its own function here."""

    async def open(self) -> None:
        """Learn who has webhooks; before this no event is put down."""
        owners = select(webhooks.c.owner).distinct()
        found = await self._db.read(lambda connection: connection.scalars(owners).all())
        self._owners = frozenset(found)

    # -- for users -------------------------------------------------------------------------------

    async def add(self, url: str, events: Collection[str], actor: Actor) -> tuple[Webhook, str]:
        """Keep a webhook for these ``EVENTS`` of the actor's jobs and runs; return its secret too.

        The secret is shown this once.

        Raises:
            InvalidRequestError: ``url`` is none that anything is sent to.
            OutboundError: its host cannot be resolved.
            ConflictError: the owner has as many as one may have.
        """
        await self._check(url)
        secret, now = signatures.new_secret(), self._clock()
        row = {
            "url": url,
            "secret": secret,
            "events": [event for event in EVENTS if event in events],
            "owner": actor.owner,
            "created_at": now,
        }

        def write(connection: Connection) -> Webhook:
            mine = select(func.count()).select_from(webhooks)
            mine = mine.where(webhooks.c.owner == actor.owner)
            if (connection.scalar(mine) or 0) >= MAX_WEBHOOKS:
                raise ConflictError(
                    f"There are {MAX_WEBHOOKS} webhooks of yours, which is all one may have: "
                    "remove some with `llmos webhooks rm`."
                )
            made = connection.execute(insert(webhooks).values(row).returning(*_COLUMNS))
            webhook = _webhook(made.mappings().one())
            detail = {"url": url, "events": list(webhook.events)}
            self._audited(connection, actor.id, "webhook.add", webhook.id, detail)
            return webhook

        webhook = await self._db.write(write)
        await self.open()
        return webhook, secret

    async def get(self, webhook_id: int) -> Webhook:
        """Return the webhook. Raises NotFoundError."""
        return await self._db.read(lambda connection: _get(connection, webhook_id))

    async def of_owner(self, owner: str | None) -> list[Webhook]:
        """Return the webhooks of an owner, or of everyone, the oldest first."""
        query = select(*_COLUMNS).order_by(webhooks.c.id)
        if owner is not None:
            query = query.where(webhooks.c.owner == owner)

        def read(connection: Connection) -> list[Webhook]:
            return [_webhook(row) for row in connection.execute(query).mappings()]

        return await self._db.read(read)

    async def remove(self, webhook_id: int, actor: str) -> Webhook:
        """Remove a webhook with all its deliveries; return what it was. Raises NotFoundError."""

        def write(connection: Connection) -> Webhook:
            webhook = _get(connection, webhook_id)
            connection.execute(delete(deliveries).where(deliveries.c.webhook_id == webhook_id))
            connection.execute(delete(webhooks).where(webhooks.c.id == webhook_id))
            self._audited(connection, actor, "webhook.remove", webhook_id, {"url": webhook.url})
            return webhook

        webhook = await self._db.write(write)
        await self.open()
        return webhook

    async def deliveries(
        self,
        *,
        owner: str | None = None,
        webhook_id: int | None = None,
        state: DeliveryState | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> list[Delivery]:
        """Return deliveries, the newest first: all, or those of an owner, a webhook, a state."""
        query = select(deliveries).order_by(deliveries.c.id.desc()).limit(limit)
        wanted = {"owner": owner, "webhook_id": webhook_id, "state": state}
        for name, value in wanted.items():
            if value is not None:
                query = query.where(deliveries.c[name] == value)
        if before is not None:
            query = query.where(deliveries.c.id < before)

        def read(connection: Connection) -> list[Delivery]:
            return [Delivery(**row) for row in connection.execute(query).mappings()]

        return await self._db.read(read)

    # -- the outbox ------------------------------------------------------------------------------

    def wants(self, owner: str) -> bool:
        """Whether this owner may have webhooks. Without the database, and from any thread."""
        return owner in self._owners

    def put(
        self, connection: Connection, owner: str, event: str, data: dict[str, Any], at: float
    ) -> None:
        """Write an event down for each webhook of ``owner`` that wants it."""
        timestamp = datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")
        row = {
            "event": event,
            "payload": {"type": event, "timestamp": timestamp, "data": data},
            "state": "pending",
            "not_before": at,
            "owner": owner,
            "created_at": at,
        }
        mine = select(webhooks.c.id, webhooks.c.events).where(webhooks.c.owner == owner)
        rows = [
            {**row, "webhook_id": webhook_id}
            for webhook_id, events in connection.execute(mine)
            if event in events
        ]
        for webhook_id in (each["webhook_id"] for each in rows):
            self._make_room(connection, webhook_id)
        if rows:
            connection.execute(insert(deliveries), rows)

    def wake(self) -> None:
        """Have what was put down sent."""
        self.woken()

    # -- inside ----------------------------------------------------------------------------------

    def _make_room(self, connection: Connection, webhook_id: int) -> None:
        """Give up the oldest that wait for a webhook where as many do as may.

        They are counted when the room known of is used up: between, they can only have become less.
        """
        room = self._room.get(webhook_id, 0)
        if room == 0:
            waiting = (deliveries.c.state == "pending") & (deliveries.c.webhook_id == webhook_id)
            count = select(func.count()).select_from(deliveries).where(waiting)
            room = MAX_PENDING - (connection.scalar(count) or 0)
            if room <= 0:
                ids = select(deliveries.c.id).where(waiting).order_by(deliveries.c.id)
                oldest = update(deliveries).where(deliveries.c.id.in_(ids.limit(NUM_DROPPED)))
                error = f"left out: {MAX_PENDING:,} newer ones waited for this webhook"
                connection.execute(oldest.values(state="dead", error=error))
                room = NUM_DROPPED
        self._room[webhook_id] = room - 1

    def _audited(
        self,
        connection: Connection,
        actor: str,
        action: str,
        webhook_id: int,
        detail: dict[str, Any],
    ) -> None:
        if self._audit is not None:
            object = f"webhook:{webhook_id}"
            self._audit(connection, actor, action, object, detail, self._clock())


_COLUMNS = [column for column in webhooks.c if column.name != "secret"]


def _get(connection: Connection, webhook_id: int) -> Webhook:
    query = select(*_COLUMNS).where(webhooks.c.id == min(webhook_id, MAX_ID))
    row = connection.execute(query).mappings().first()
    if row is None:
        raise NotFoundError(
            f"There is no webhook {webhook_id}: `llmos webhooks list` shows those there are."
        )
    return _webhook(row)


def _webhook(row: RowMapping) -> Webhook:
    return Webhook(**{**row, "events": tuple(row["events"])})
