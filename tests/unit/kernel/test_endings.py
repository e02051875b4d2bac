from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from llmos.kernel import endings
from llmos.kernel.endings import Ending
from llmos.kernel.protocol import CancelJob


class Channel:
    def __init__(self, done: list[object]) -> None:
        self.send: Callable[[object], None] = done.append


class Process:
    """A worker's process and its hold: notes what is done to it, in order."""

    pid = 1

    def __init__(self) -> None:
        self.done: list[object] = []
        self.channel = Channel(self.done)
        self.gave_memory = asyncio.Event()

    @property
    def is_parked(self) -> bool:
        return self.gave_memory.is_set()

    def signal(self, number: signal.Signals) -> None:
        self.done.append(number)

    def end(self) -> None:
        self.done.append("goes on")

    def add(self, reason: str, *, give_memory: bool) -> None:
        assert give_memory
        self.done.append(reason)


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
def ending(process: Process) -> Ending:
    return Ending(process, process)  # type: ignore[arg-type]


async def until_nothing_happens(process: Process) -> None:
    seen = -1
    while seen != len(process.done):
        seen = len(process.done)
        for _ in range(10):
            await asyncio.sleep(0)


async def test_it_is_let_go_on_asked_once_then_told_then_killed(
    ending: Ending, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "CANCEL_WITHIN_S", 0.0)
    monkeypatch.setattr(endings, "KILL_AFTER_S", 0.0)
    ending.cancel()
    ending.cancel()
    await until_nothing_happens(process)
    assert process.done == [CancelJob(), "goes on", signal.SIGTERM, signal.SIGKILL]
    assert not ending.is_leaving


async def test_one_that_ends_by_itself_is_not_told(ending: Ending, process: Process) -> None:
    ending.leave()
    ending.leave()
    ending.is_done.set()
    await until_nothing_happens(process)
    assert process.done == [CancelJob(keep=True), "goes on"]
    assert ending.is_leaving


async def test_one_that_was_to_leave_can_be_cancelled_and_not_the_other_way_round(
    ending: Ending, process: Process
) -> None:
    ending.leave()
    ending.cancel()
    ending.leave()
    assert [one for one in process.done if one != "goes on"] == [CancelJob(keep=True), CancelJob()]
    ending.is_done.set()
    await until_nothing_happens(process)


async def test_one_on_a_device_gives_its_memory_up_and_stands_by(process: Process) -> None:
    ending = Ending(process, process, lambda: process.done.append("parked"))  # type: ignore[arg-type]
    ending.leave()
    assert ending.is_leaving
    process.gave_memory.set()
    await until_nothing_happens(process)
    ending.leave()
    assert process.done == ["preempted", "parked"]
    assert not ending.is_leaving


async def test_one_that_cannot_has_to_leave(
    process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endings, "LEAVE_WITHIN_S", 0.0)
    ending = Ending(process, process, lambda: process.done.append("parked"))  # type: ignore[arg-type]
    ending.leave()
    await until_nothing_happens(process)
    assert process.done[:3] == ["preempted", CancelJob(keep=True), "goes on"]
    assert ending.is_leaving
    ending.is_done.set()
    await until_nothing_happens(process)


async def test_one_that_is_to_be_parked_can_be_cancelled(process: Process) -> None:
    ending = Ending(process, process, lambda: process.done.append("parked"))  # type: ignore[arg-type]
    ending.leave()
    ending.cancel()
    process.gave_memory.set()
    ending.is_done.set()
    await until_nothing_happens(process)
    assert process.done == ["preempted", CancelJob(), "goes on"]
