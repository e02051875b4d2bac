"""Sending events to webhooks: at least once each, again when that fails, for half a day or so.

A webhook gets one at a time, in order as long as it takes them. One that fails is left alone for a
while, longer each time, whatever waits for it. One that is slow or gone holds no other up, and its
owner is sent a few things at a time, so that no owner holds up another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, delete, func, select, update
from sqlalchemy.sql.selectable import Select

from llmos.errors import LlmosError, OutboundError
from llmos.kernel.webhooks import Webhooks
from llmos.security.signatures import signed_headers
from llmos.storage.database import Database
from llmos.storage.schema import deliveries, webhooks

MAX_ATTEMPTS = 9
BACKOFF_BASE_S = 5.0
BACKOFF_FACTOR = 5
BACKOFF_LIMIT_S = 4 * 3600.0
GONE = 410
"""What a receiver answers that wants no more of it."""
DAY_S = 86400.0
KEPT_S = {"delivered": 7 * DAY_S, "dead": 30 * DAY_S}
"""How long deliveries can be looked at after their event."""
SWEEP_S = 3600.0
LONGEST_WAIT_S = 30.0
RETRY_S = 10.0
MAX_SENDING = 32
"""Webhooks that are sent to at the same time."""
MAX_SENDING_OF_OWNER = 4
IN_A_ROW = 100
"""Messages that a webhook gets before another may have its place."""

log = logging.getLogger(__name__)


class Post(Protocol):
    """What sends, see `security.outbound.Outbound`."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status of the answer. Raises LlmosError when there is none."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class _Message:
    """A delivery to be sent, and where it goes."""

    id: int
    attempt: int
    not_before: float
    payload: dict[str, Any]
    url: str
    secret: str


@dataclass(frozen=True, slots=True)
class _Head:
    """What a webhook is to be sent next."""

    webhook_id: int
    owner: str
    attempt: int
    not_before: float


@dataclass(frozen=True, slots=True)
class _Rest:
    """A webhook that failed is left alone for a while."""

    newest: tuple[int, ...]
    """The newest delivery that waited for it at each failure since it last took one: the last
    ``MAX_ATTEMPTS`` of them."""
    until: float
    """Unix seconds."""


class Deliveries:
    """Sends what was put down for webhooks, between `start` and `stop`. Belongs to one event loop.

    A crash between sending and the note of it here sends it again: under the same ``webhook-id``.

    Args:
        clock: Unix seconds.
        rng: draws the delays of retries.
    """

    def __init__(
        self,
        db: Database,
        hooks: Webhooks,
        outbound: Post,
        clock: Callable[[], float],
        *,
        rng: random.Random,
    ) -> None:
        self._db = db
        self._outbound = outbound
        self._clock = clock
        self._rng = rng
        self._wake = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._num_sending: Counter[str] = Counter()
        """By owner."""
        self._rests: dict[int, _Rest] = {}
        self._sweep_at = 0.0
        hooks.woken = self._wake.set

    @property
    def busy(self) -> list[asyncio.Task[None]]:
        """What sends now, one task for each webhook that something is sent to."""
        return list(self._sending.values())

    async def start(self) -> None:
        """Begin to send what is due."""
        self._loop = asyncio.create_task(self._run(), name="deliveries")

    async def stop(self) -> None:
        """Send nothing more; what is under way is sent again at the next start."""
        tasks = [*self.busy, *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._loop = None
        await self._outbound.close()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                wait_s = await self.step()
            except Exception:  # this loop's top: what failed now is tried again
                log.exception("the deliveries could not be looked through")
                wait_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):  # wait_for can lose a cancellation
                    await self._wake.wait()

    async def step(self) -> float:
        """Begin to send to each webhook for which something is due. Return the seconds after
        which to look again."""
        now = self._clock()
        heads = await self._db.read(_heads)
        if now >= self._sweep_at:
            await self._db.write(lambda connection: _sweep(connection, now))
            self._sweep_at = now + SWEEP_S
            ids = {head.webhook_id for head in heads}
            self._rests = {id: rest for id, rest in self._rests.items() if id in ids}
        waits = [LONGEST_WAIT_S]
        for head in sorted(heads, key=lambda head: head.not_before):
            if head.webhook_id in self._sending:
                continue
            due_in_s = _wait_s(head.not_before, head.attempt, now)
            wait_s = max(due_in_s, self._rest_s(head.webhook_id, now))
            if wait_s > 0:
                waits.append(wait_s)
            elif self._has_place(head.owner):  # else whoever ends makes place, and wakes this
                self._begin(head)
        return min(waits)

    def _has_place(self, owner: str) -> bool:
        return len(self._sending) < MAX_SENDING and self._num_sending[owner] < MAX_SENDING_OF_OWNER

    def _begin(self, head: _Head) -> None:
        self._num_sending[head.owner] += 1
        sending = self._send_some(head.webhook_id, head.owner)
        task = asyncio.create_task(sending, name=f"webhook-{head.webhook_id}")
        self._sending[head.webhook_id] = task

    async def _send_some(self, webhook_id: int, owner: str) -> None:
        """Send what is due for one webhook, the oldest first, as long as it takes it."""
        try:
            for _ in range(IN_A_ROW):
                message = await self._next(webhook_id)
                if message is None or not await self._attempt(webhook_id, message):
                    break
        except Exception:  # this task's top: what is left is begun again
            log.exception("the deliveries of webhook %d could not be sent", webhook_id)
            await asyncio.sleep(RETRY_S)
        finally:
            del self._sending[webhook_id]
            self._num_sending[owner] -= 1
            self._wake.set()

    async def _next(self, webhook_id: int) -> _Message | None:
        now = self._clock()
        message = await self._db.read(lambda connection: _first(connection, webhook_id))
        is_due = message is not None and not _wait_s(message.not_before, message.attempt, now)
        return message if is_due else None

    async def _attempt(self, webhook_id: int, message: _Message) -> bool:
        """Send one message and keep how that ended. Return whether it was taken."""
        now = self._clock()
        body = json.dumps(message.payload, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "llmos"}
        headers |= signed_headers(message.secret, f"msg_{message.id}", now, body)
        status = 0
        try:
            status = await self._outbound.post(message.url, body, headers)
            if not 200 <= status < 300:
                raise OutboundError(f"it answered {status}")
        except LlmosError as error:
            values = self._failed(message.attempt + 1, error.message, is_gone=status == GONE)
            await self._settle_failed(webhook_id, message.id, values)
            return False
        values = {"attempt": message.attempt + 1, "state": "delivered", "error": None}
        await self._db.write(lambda connection: _settle(connection, message.id, values))
        self._rests.pop(webhook_id, None)
        return True

    def _failed(self, attempt: int, error: str, *, is_gone: bool) -> dict[str, Any]:
        """Return what becomes of a delivery whose ``attempt``, counted from 1, failed."""
        values: dict[str, Any] = {"attempt": attempt, "error": error}
        if is_gone or attempt >= MAX_ATTEMPTS:
            return values | {"state": "dead"}
        return values | {"not_before": self._after(attempt)}

    async def _settle_failed(
        self, webhook_id: int, message_id: int, values: dict[str, Any]
    ) -> None:
        """Keep how an attempt failed, and leave the webhook alone for a while.

        What has waited through as many failures in a row as one message has attempts is given up
        with them.
        """
        rest = self._rests.get(webhook_id)
        newest = () if rest is None else rest.newest[1 - MAX_ATTEMPTS :]

        def settle(connection: Connection) -> int:
            _settle(connection, message_id, values)
            if len(newest) == MAX_ATTEMPTS - 1:
                _give_up(connection, webhook_id, newest[0], values["error"])
            waiting = select(func.max(deliveries.c.id)).where(*_waiting_for(webhook_id))
            return connection.scalar(waiting) or 0

        newest += (await self._db.write(settle),)
        self._rests[webhook_id] = _Rest(newest, self._after(len(newest)))

    def _after(self, failures: int) -> float:
        """Return when to try again after so many failures."""
        return self._clock() + self._rng.uniform(0.0, longest_wait_s(failures))

    def _rest_s(self, webhook_id: int, now: float) -> float:
        """Return how long a webhook is still left alone."""
        rest = self._rests.get(webhook_id)
        return 0.0 if rest is None else _wait_s(rest.until, len(rest.newest), now)


def longest_wait_s(failures: int) -> float:
    """Return the limit of the wait after so many failures, which has full jitter: 5 s, 25 s, …"""
    if failures == 0:
        return 0.0
    return min(BACKOFF_LIMIT_S, float(BACKOFF_BASE_S * BACKOFF_FACTOR ** (failures - 1)))


def _wait_s(at: float, failures: int, now: float) -> float:
    """Return how long to wait until ``at`` after so many failures; no time when that is longer
    than a wait can be, as the clock ran ahead when it was written down."""
    wait_s = at - now
    return wait_s if 0.0 < wait_s <= longest_wait_s(failures) else 0.0


def _waiting_for(webhook_id: Any) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Return the conditions of what is still to be sent to a webhook."""
    return deliveries.c.state == "pending", deliveries.c.webhook_id == webhook_id


def _first_waiting(webhook_id: Any) -> Select[tuple[int]]:
    """Return the query of the id of what a webhook is to be sent next."""
    return (
        select(deliveries.c.id)
        .where(*_waiting_for(webhook_id))
        .order_by(deliveries.c.not_before, deliveries.c.id)
        .limit(1)
    )


def _every_head() -> Select[tuple[int, str, int, float]]:
    """Return the query of what each webhook is to be sent next, each found from the one before it
    by index: however much waits for one, it is not looked through."""
    pending = deliveries.c.state == "pending"
    first = select(func.min(deliveries.c.webhook_id)).where(pending).scalar_subquery()
    hooks = select(first.label("id")).cte("hooks", recursive=True)
    another = (
        select(func.min(deliveries.c.webhook_id))
        .where(pending, deliveries.c.webhook_id > hooks.c.id)
        .correlate(hooks)
        .scalar_subquery()
    )
    hooks = hooks.union_all(select(another).where(hooks.c.id.is_not(None)))
    head = deliveries.alias("head")
    return select(head.c.webhook_id, head.c.owner, head.c.attempt, head.c.not_before).select_from(
        hooks.join(head, head.c.id == _first_waiting(hooks.c.id).correlate(hooks).scalar_subquery())
    )


EVERY_HEAD = _every_head()


def _heads(connection: Connection) -> list[_Head]:
    return [_Head(**row) for row in connection.execute(EVERY_HEAD).mappings()]


def _first(connection: Connection, webhook_id: int) -> _Message | None:
    columns = ("id", "attempt", "not_before", "payload")
    query = (
        select(*(deliveries.c[name] for name in columns), webhooks.c.url, webhooks.c.secret)
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(deliveries.c.id == _first_waiting(webhook_id).scalar_subquery())
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _Message(**row)


def _settle(connection: Connection, message_id: int, values: dict[str, Any]) -> None:
    """Keep what became of a message."""
    connection.execute(update(deliveries).where(deliveries.c.id == message_id).values(values))


def _give_up(connection: Connection, webhook_id: int, newest: int, error: str) -> None:
    """Give up what waits for a webhook, up to the ``newest``."""
    old = update(deliveries).where(*_waiting_for(webhook_id), deliveries.c.id <= newest)
    text = f"not sent: {MAX_ATTEMPTS} others in a row failed, the last as {error}"
    connection.execute(old.values(state="dead", error=text))


def _sweep(connection: Connection, now: float) -> None:
    """Remove deliveries that ended long ago."""
    for state, kept_s in KEPT_S.items():
        old = (deliveries.c.state == state) & (deliveries.c.created_at < now - kept_s)
        connection.execute(delete(deliveries).where(old))
