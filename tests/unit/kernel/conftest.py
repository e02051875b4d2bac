"""A queue on an in-memory database, with a clock and chance that tests control."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.kernel.events import EventBus
from llmos.kernel.jobs import JobKind
from llmos.kernel.queue import JobQueue
from llmos.storage.memory import MemoryDatabase


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FixedRandom(random.Random):
    """Draws the middle of every range."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def _schema(params: dict[str, Any]) -> dict[str, Any]:
    if "bad" in params:
        raise InvalidRequestError("bad is not a parameter")
    return {"steps": 1} | params


KINDS = {
    "train": JobKind("train", "m:f", _schema, lambda params: params.get("bytes", 0)),
    "import": JobKind("import", "m:f", _schema, lambda _: 0, max_attempts=1, light=True),
}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bus() -> EventBus:
    return EventBus()


@pytest.fixture
def database() -> Iterator[MemoryDatabase]:
    database = MemoryDatabase()
    yield database
    database.close()


@pytest.fixture
def audited() -> list[tuple[Any, ...]]:
    return []


@pytest.fixture
def queue(
    database: MemoryDatabase, clock: Clock, bus: EventBus, audited: list[tuple[Any, ...]]
) -> JobQueue:
    return JobQueue(
        database,
        KINDS,
        clock,
        rng=FixedRandom(),
        bus=bus,
        audit=lambda connection, *event: audited.append(event),
        capacity_bytes=1000,
    )
