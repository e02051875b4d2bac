"""Sending events to webhooks: at least once each, again when that fails, for half a day or so.

A webhook gets one at a time, in order as long as it takes them. One that is slow or gone holds no
other up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Connection, delete, func, select, update

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

log = logging.getLogger(__name__)


class Post(Protocol):
    """What sends, see `security.outbound.Outbound`."""

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Return the status of the answer. Raises LlmosError when there is none."""

    async def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class _Message:
    """A delivery that is due, and where it goes."""

    id: int
    attempt: int
    payload: dict[str, Any]
    url: str
    secret: str


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
        if now >= self._sweep_at:
            await self._db.write(lambda connection: _sweep(connection, now))
            self._sweep_at = now + SWEEP_S
        due: dict[int, float] = dict(await self._db.read(_soonest))
        for webhook_id in [id for id in due if id not in self._sending and due[id] <= now]:
            task = asyncio.create_task(self._send_all(webhook_id), name=f"webhook-{webhook_id}")
            self._sending[webhook_id] = task
        waits = [at - now for webhook_id, at in due.items() if webhook_id not in self._sending]
        return min([LONGEST_WAIT_S, *waits])

    async def _send_all(self, webhook_id: int) -> None:
        """Send what is due for one webhook, the oldest first."""
        try:
            while message := await self._next(webhook_id):
                await self._attempt(message)
        except Exception:  # this task's top: what is left is begun again
            log.exception("the deliveries of webhook %d could not be sent", webhook_id)
            await asyncio.sleep(RETRY_S)
        finally:
            del self._sending[webhook_id]
            self._wake.set()

    async def _next(self, webhook_id: int) -> _Message | None:
        now = self._clock()
        return await self._db.read(lambda connection: _next_due(connection, webhook_id, now))

    async def _attempt(self, message: _Message) -> None:
        """Send one message and keep how that ended."""
        now = self._clock()
        body = json.dumps(message.payload, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "llmos"}
        headers |= signed_headers(message.secret, f"msg_{message.id}", now, body)
        is_gone = False
        try:
            status = await self._outbound.post(message.url, body, headers)
            is_gone = status == GONE
            if not 200 <= status < 300:
                raise OutboundError(f"it answered {status}")
        except LlmosError as error:
            values = self._failed(message.attempt + 1, error.message, is_gone)
        else:
            values = {"attempt": message.attempt + 1, "state": "delivered", "error": None}
        settled = update(deliveries).where(deliveries.c.id == message.id).values(values)
        await self._db.write(lambda connection: connection.execute(settled))

    def _failed(self, attempt: int, error: str, is_gone: bool) -> dict[str, Any]:
        """Return what becomes of a delivery whose ``attempt``, counted from 1, failed."""
        values: dict[str, Any] = {"attempt": attempt, "error": error}
        if is_gone or attempt >= MAX_ATTEMPTS:
            return values | {"state": "dead"}
        wait_s = self._rng.uniform(0.0, longest_wait_s(attempt))
        return values | {"not_before": self._clock() + wait_s}


def longest_wait_s(attempt: int) -> float:
    """Return the limit of the wait after so many failures, which has full jitter: 5 s, 25 s, …"""
    return min(BACKOFF_LIMIT_S, float(BACKOFF_BASE_S * BACKOFF_FACTOR ** (attempt - 1)))


def _soonest(connection: Connection) -> list[tuple[int, float]]:
    """Return each webhook that something is to be sent to, and when."""
    query = (
        select(deliveries.c.webhook_id, func.min(deliveries.c.not_before))
        .where(deliveries.c.state == "pending")
        .group_by(deliveries.c.webhook_id)
    )
    return [(webhook_id, at) for webhook_id, at in connection.execute(query)]


def _next_due(connection: Connection, webhook_id: int, now: float) -> _Message | None:
    query = (
        select(
            deliveries.c.id,
            deliveries.c.attempt,
            deliveries.c.payload,
            webhooks.c.url,
            webhooks.c.secret,
        )
        .join(webhooks, webhooks.c.id == deliveries.c.webhook_id)
        .where(
            deliveries.c.state == "pending",
            deliveries.c.webhook_id == webhook_id,
            deliveries.c.not_before <= now,
        )
        .order_by(deliveries.c.not_before, deliveries.c.id)
        .limit(1)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else _Message(**row)


def _sweep(connection: Connection, now: float) -> None:
    """Remove deliveries that ended long ago."""
    for state, kept_s in KEPT_S.items():
        old = (deliveries.c.state == state) & (deliveries.c.created_at < now - kept_s)
        connection.execute(delete(deliveries).where(old))
