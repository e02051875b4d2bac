"""Adapters over resident models: loaded on demand, shared, evicted, and back after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from llmos.errors import DeadlineExceededError, EngineError, InvalidModelError, OutOfMemoryError
from llmos.kernel import adapters as module
from llmos.kernel.adapters import Adapters, AdapterSpec
from llmos.kernel.ledger import Ledger
from llmos.kernel.models import ModelSpec
from llmos.kernel.protocol import (
    AdapterFailed,
    AdapterLoaded,
    LoadAdapter,
    Submit,
    UnloadAdapter,
)
from llmos.kernel.works import MAX_DEATHS, Works
from llmos.types import GenerateWork, Priority, SamplingParams


def spec(name: str, model: str = "m", num_bytes: int = 10) -> ModelSpec:
    adapter = AdapterSpec(name, f"/{name}", num_bytes, name)
    return ModelSpec(model, "echo", "/m", {}, 0, model, adapter)


class World:
    """The adapters of one engine, and everything they talk to."""

    def __init__(self, capacity_bytes: int = 100) -> None:
        self.now = 0.0
        self.sent: list[Any] = []
        self.models = {"m", "n"}
        self.changes = 0
        self.ledger = Ledger(capacity_bytes)
        self.works = Works(self.sent.append, lambda live: self.adapters.is_ready(live))
        self.adapters = Adapters(
            self.ledger,
            lambda: self.now,
            self.sent.append,
            self.works,
            self.models.__contains__,
            self._changed,
        )

    def _changed(self) -> None:
        self.changes += 1

    def schedule(self) -> list[str]:
        """Load what is wanted, as the scheduler does where there is room; return what that was."""
        keys = [wanted.key for wanted in self.adapters.wanted()]
        for key in keys:
            self.adapters.load(key)
        return keys

    def loads(self) -> list[str]:
        """What the engine was told to load since the last call."""
        found = [message.adapter for message in self.sent if isinstance(message, LoadAdapter)]
        self.sent.clear()
        return found

    def loaded(self, name: str, model: str = "m", num_bytes: int = 8) -> bool:
        return self.adapters.take(AdapterLoaded(model, name, num_bytes, 0.5))

    @asynccontextmanager
    async def held(self, name: str, **options: Any) -> AsyncIterator[None]:
        """Hold an adapter, the scheduler and the engine doing their part."""
        entering = asyncio.create_task(self.enter(name, **options))
        await asyncio.sleep(0)
        self.schedule()
        self.loaded(name)
        stack = await entering
        async with stack:
            yield

    async def enter(
        self, name: str, deadline_s: float | None = None, **options: Any
    ) -> AsyncExitStack:
        stack = AsyncExitStack()
        one = spec(name, **options)
        await stack.enter_async_context(self.adapters.hold(one, Priority.STANDARD, deadline_s))
        return stack

    def submit(self, name: str) -> Any:
        return self.works.add("m", GenerateWork((1,), SamplingParams(), adapter=name))


@pytest.fixture
def world() -> World:
    return World()


async def test_a_model_without_an_adapter_waits_for_none(world: World) -> None:
    bare = ModelSpec("m", "echo", "/m", {}, 0, "m")
    async with world.adapters.hold(bare, Priority.STANDARD, None):
        assert not world.sent
    assert world.submit("").state == "sent"


async def test_it_is_loaded_once_for_all_who_want_it_and_kept(world: World) -> None:
    first = asyncio.create_task(world.enter("a"))
    second = asyncio.create_task(world.enter("a"))
    await asyncio.sleep(0)
    assert world.changes == 2
    (wanted,) = world.adapters.wanted()
    assert (wanted.num_bytes, wanted.priority) == (10, Priority.STANDARD)
    world.schedule()
    assert (world.loads(), world.ledger.reserved_bytes) == (["a"], 10)
    assert world.loaded("a")
    assert world.ledger.reserved_bytes == 8  # corrected by what was measured
    for stack in await asyncio.gather(first, second):
        await stack.aclose()
    (resident,) = world.adapters.resident()
    assert (resident.state, resident.num_users) == ("ready", 0)
    async with world.adapters.hold(spec("a"), Priority.STANDARD, None):
        assert world.loads() == []
    assert world.adapters.status("m")[0]["name"] == "a"


async def test_works_wait_for_their_adapter_alone(world: World) -> None:
    async with world.held("a"):
        assert world.submit("a").state == "sent"
        assert world.submit("").state == "sent"
        assert world.submit("b").state == "waiting"


async def test_the_scheduler_evicts_what_nobody_uses(world: World) -> None:
    async with world.held("a"):
        world.adapters.evict("m+a")
        assert world.submit("a").state == "sent"
    world.adapters.evict("m+a")
    assert isinstance(world.sent[-1], UnloadAdapter)
    assert world.ledger.reserved_bytes == 0
    assert list(world.adapters.resident()) == []


async def test_too_many_idle_ones_make_room_the_oldest_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_LOADED", 2)
    for world.now, name in enumerate("abc"):
        async with world.held(name):
            pass
    assert [one["name"] for one in world.adapters.status("m")] == ["b", "c"]
    assert world.ledger.reserved_bytes == 16


async def test_a_failed_load_reaches_everyone_who_waits(world: World) -> None:
    entering = [asyncio.create_task(world.enter("a")) for _ in range(2)]
    await asyncio.sleep(0)
    world.schedule()
    assert not world.adapters.take(AdapterFailed("m", "a", "invalid_model", "it does not fit"))
    assert list(world.adapters.wanted()) == []
    for task in entering:
        with pytest.raises(InvalidModelError, match="it does not fit"):
            await task
    assert world.ledger.reserved_bytes == 0
    assert world.adapters.status("m") == []


async def test_refusal_and_deadline_end_the_wait(world: World) -> None:
    entering = asyncio.create_task(world.enter("a"))
    await asyncio.sleep(0)
    world.adapters.refuse("m+a", OutOfMemoryError("no room"))
    with pytest.raises(OutOfMemoryError, match="no room"):
        await entering
    with pytest.raises(DeadlineExceededError):
        await world.enter("a", deadline_s=0.0)


async def test_one_that_is_larger_than_it_seemed_is_asked_for_again(world: World) -> None:
    entering = asyncio.create_task(world.enter("a"))
    await asyncio.sleep(0)
    world.schedule()
    assert not world.loaded("a", num_bytes=101)
    assert isinstance(world.sent[-1], UnloadAdapter)
    (wanted,) = world.adapters.wanted()
    assert wanted.num_bytes == 101
    world.adapters.refuse("m+a", OutOfMemoryError("no room"))
    with pytest.raises(OutOfMemoryError):
        await entering


async def test_it_is_wanted_only_when_its_model_is_there(world: World) -> None:
    world.models.clear()
    entering = asyncio.create_task(world.enter("a"))
    await asyncio.sleep(0)
    assert world.schedule() == []
    world.adapters.load("m+a")
    assert world.loads() == []
    world.models.add("m")
    assert world.schedule() == ["m+a"]
    world.loaded("a")
    await (await entering).aclose()


async def test_after_a_crash_what_is_in_use_comes_back_before_its_works(world: World) -> None:
    async with world.held("idle"):
        pass
    async with world.held("a"):
        live = world.submit("a")
        world.sent.clear()
        world.adapters.engine_down("was killed")
        world.works.engine_died("was killed")
        assert world.ledger.reserved_bytes == 8  # of a; idle is gone
        world.works.dispatch()
        assert world.sent == []
        world.adapters.model_ready("m")
        assert world.loads() == ["a"]
        assert world.loaded("a")
        world.works.dispatch()
        assert isinstance(world.sent[-1], Submit)
        assert live.state == "sent"


async def test_one_that_kills_the_engine_is_given_up(world: World) -> None:
    entering = asyncio.create_task(world.enter("a"))
    await asyncio.sleep(0)
    world.schedule()
    for _ in range(MAX_DEATHS):
        world.adapters.model_ready("m")
        world.adapters.engine_down("was killed")
    with pytest.raises(EngineError, match="was killed while it loaded a"):
        await entering
    assert world.ledger.reserved_bytes == 0


async def test_one_that_cannot_come_back_fails_its_works(world: World) -> None:
    async with world.held("a"):
        live, other = world.submit("a"), world.submit("")
        world.adapters.engine_down("was killed")
        world.works.engine_died("was killed")
        world.adapters.model_ready("m")
        world.adapters.take(AdapterFailed("m", "a", "corrupt_blob", "damaged"))
        assert (live.state, other.state) == ("ended", "waiting")


async def test_a_model_takes_its_adapters_with_it(world: World) -> None:
    async with world.held("a"):
        pass
    async with world.held("b"):
        world.adapters.model_gone("m")
        assert world.ledger.reserved_bytes == 0
        live = world.submit("b")
        assert world.schedule() == ["m+b"]  # its model is back, and someone works over it
        world.adapters.model_gone("m", EngineError("no more"))
        assert live.state == "ended"
    assert world.adapters.status("m") == []


async def test_an_adapter_that_was_removed_is_dropped_when_nobody_uses_it(world: World) -> None:
    async with world.held("a"):
        pass
    world.sent.clear()
    world.adapters.retire("a")
    assert world.sent == [UnloadAdapter("m", "a")]
    assert (world.adapters.status("m"), world.ledger.reserved_bytes) == ([], 0)
    async with world.held("b"):
        world.sent.clear()
        world.adapters.retire("b")
        assert world.sent == []
    assert world.sent == [UnloadAdapter("m", "b")]
    assert world.adapters.status("m") == []
    async with world.held("c"):
        world.adapters.retire("c")
        async with await world.enter("c"):  # it came back meanwhile, under another name
            pass
    assert [one["state"] for one in world.adapters.status("m")] == ["ready"]
