"""The engine link with a child that tests drive: no process."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from llmos.kernel import engine
from llmos.kernel.engine import EngineLink


class Channel:
    def __init__(self) -> None:
        self.inbox: asyncio.Queue[list[str]] = asyncio.Queue()

    async def receive(self) -> list[str]:
        return await self.inbox.get()


class FakeChild:
    """Lives until it is told to say nothing (``[]``)."""

    pid = 1
    started: asyncio.Queue[FakeChild]

    def __init__(self) -> None:
        self.channel = Channel()
        self.ended = False

    @classmethod
    async def start(cls, *_: object) -> FakeChild:
        child = cls()
        cls.started.put_nowait(child)
        return child

    async def end(self, grace_s: float) -> int:
        self.ended = True
        return 0


class Owner:
    """Whoever listens to the link; raises when told to."""

    def __init__(self) -> None:
        self.raises: set[str] = set()
        self.downs: asyncio.Queue[str] = asyncio.Queue()
        self.link = EngineLink(
            "m",
            Path("engine.log"),
            {},
            on_up=lambda: self._heard("up"),
            on_message=lambda message: self._heard("message"),
            on_down=self._down,
        )

    def _heard(self, what: str) -> None:
        if what in self.raises:
            raise KeyError(what)

    def _down(self, reason: str) -> None:
        self.downs.put_nowait(reason)
        self._heard("down")


@pytest.fixture
def owner(monkeypatch: pytest.MonkeyPatch) -> Owner:
    FakeChild.started = asyncio.Queue()
    monkeypatch.setattr(engine, "Child", FakeChild)
    return Owner()


@pytest.mark.parametrize("where", ["up", "message", "down"])
async def test_an_engine_is_started_again_whatever_its_owner_raised(
    owner: Owner, where: str
) -> None:
    owner.raises = {where}
    owner.link.need()
    child = await FakeChild.started.get()
    child.channel.inbox.put_nowait(["hello"])
    child.channel.inbox.put_nowait([])
    reason = await owner.downs.get()
    assert (where in reason) == (where != "down")
    assert child.ended
    assert not owner.link.is_up
    owner.raises.clear()
    owner.link.need()
    again = await FakeChild.started.get()
    again.channel.inbox.put_nowait([])
    assert await owner.downs.get() == "ended with status 0"
    await owner.link.stop()


async def test_a_task_that_died_all_the_same_is_replaced_when_an_engine_is_needed(
    owner: Owner,
) -> None:
    owner.link.need()
    await FakeChild.started.get()
    (task,) = (task for task in asyncio.all_tasks() if task.get_name() == "engine-link")
    task.cancel()
    await asyncio.wait([task])
    owner.link.need()
    await FakeChild.started.get()
    await owner.link.stop()
    assert not owner.link.is_up


async def test_an_engine_that_is_back_after_a_death_says_so_once(
    owner: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "llmos"):
        for said in ([], ["hello"]):
            owner.link.need()
            child = await FakeChild.started.get()
            child.channel.inbox.put_nowait(said)
            child.channel.inbox.put_nowait(said)
            child.channel.inbox.put_nowait([])
            await owner.downs.get()
    await owner.link.stop()
    back = [one.message for one in caplog.records if one.levelname == "INFO"]
    assert len(back) == 1
    assert back[0].startswith("the engine is back, 0.")
