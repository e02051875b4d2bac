"""Live events inside one process: publish on a topic, follow it. Nothing is kept; see the queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Self

CAPACITY = 1000

EVERYONES_JOBS = "jobs"
"""The topic of every event of every job."""


def topic(job_id: int) -> str:
    """Return the topic of one job's events."""
    return f"job:{job_id}"


def owners_topic(owner: str) -> str:
    """Return the topic of the events of all jobs of an owner."""
    return f"jobs:{owner}"


class EventBus:
    """Topics and who follows them. Belongs to one event loop; not for other threads."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = {}

    def publish(self, topic: str, event: Any) -> None:
        """Hand ``event`` to everyone who follows ``topic``; never waits."""
        for subscription in self._subscriptions.get(topic, ()):
            subscription._take(event)

    def subscribe(self, topic: str, capacity: int = CAPACITY) -> Subscription:
        """Follow ``topic`` from this moment on. Use it as a context manager, or close it."""
        subscription = Subscription(self, topic, capacity)
        self._subscriptions.setdefault(topic, set()).add(subscription)
        return subscription

    def _remove(self, subscription: Subscription) -> None:
        followers = self._subscriptions.get(subscription.topic, set())
        followers.discard(subscription)
        if not followers:
            self._subscriptions.pop(subscription.topic, None)


class Subscription(AsyncIterator[Any]):
    """Events of one topic in order. A slow reader loses the oldest: ``dropped`` counts those."""

    def __init__(self, bus: EventBus, topic: str, capacity: int) -> None:
        self.topic = topic
        self.dropped = 0
        self._bus = bus
        self._events: deque[Any] = deque(maxlen=capacity)
        self._arrived = asyncio.Event()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __anext__(self) -> Any:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    def take_all(self) -> list[Any]:
        """Return the events that wait now, without waiting."""
        events = list(self._events)
        self._events.clear()
        return events

    def close(self) -> None:
        """Follow no more; iteration ends after the events already there."""
        self._closed = True
        self._bus._remove(self)
        self._arrived.set()

    def _take(self, event: Any) -> None:
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        self._arrived.set()
