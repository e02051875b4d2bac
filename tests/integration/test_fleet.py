"""Several engines of one server: they share a model's requests, and one's death is its own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.integration.kernels import Harness

from llmos.kernel.fleet import SETTLE_S
from llmos.kernel.kernel import Kernel
from llmos.kernel.leases import Lease
from llmos.kernel.ledger import Ledger
from llmos.kernel.models import ModelSpec
from llmos.kernel.replicas import Replicate
from llmos.settings import Settings
from llmos.storage.memory import MemoryDatabase
from llmos.types import EngineStats, GenerateWork, SamplingParams

CHILDREN = Path(__file__).parent
PROMPT = tuple(range(100, 110))
SPEC = ModelSpec("a", "echo", "/nowhere", {}, 100, "a:1")


class Ahead:
    """Unix seconds that tests put forward."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.by_s


@pytest.fixture
def clock() -> Ahead:
    return Ahead()


@pytest.fixture
async def kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Ahead
) -> AsyncIterator[Kernel]:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    database = MemoryDatabase()
    kernel = Kernel(
        database,
        Ledger(250),
        {},
        Settings(home=tmp_path, threads=2, engines=2),
        clock,
        lambda connection, job, result: None,
        rng=random.Random(0),
        engine_module="kernel_children.echo_host",
    )
    await kernel.start()
    yield kernel
    await kernel.stop()
    database.close()


async def ask(lease: Lease) -> list[int]:
    asked = GenerateWork(PROMPT, SamplingParams())
    return [piece.token_id async for out in lease.generate(asked) for piece in out.pieces]


async def replicated(kernel: Kernel, clock: Ahead) -> None:
    """Have both engines answer for the model, as its requests seem to wait."""
    async with kernel.fleet.lease(SPEC) as lease:
        assert await ask(lease) == list(PROMPT)
    clock.by_s += SETTLE_S
    (model,) = (m for d in kernel.fleet.devices if (m := d.residency.model("a")))
    model.stats = EngineStats(waiting=(0, 50, 0, 0), running=(0, 1, 0, 0))
    model.queues[1].interval_s = 1.0
    (change,) = kernel.fleet.look()
    assert isinstance(change, Replicate)
    await asyncio.gather(*kernel.fleet._loads)
    model.stats = EngineStats()


async def test_a_model_that_is_asked_for_much_is_answered_by_two_engines(
    kernel: Kernel, clock: Ahead
) -> None:
    await replicated(kernel, clock)
    pids = {device.residency.engine.pid for device in kernel.fleet.devices}
    assert len(pids) == 2 and None not in pids
    async with AsyncExitStack() as stack:
        leases = [await stack.enter_async_context(kernel.fleet.lease(SPEC)) for _ in range(4)]
        users = [d.residency.model("a") for d in kernel.fleet.devices]
        assert [model and model.num_users for model in users] == [2, 2]
        assert [await ask(lease) for lease in leases] == [list(PROMPT)] * 4
    shown = kernel.fleet.status()
    assert sorted((one["device"], one["state"]) for one in shown) == [
        ("cpu:0", "ready"), ("cpu:1", "ready")
    ]  # fmt: skip
    assert {d.ledger.reserved_bytes for d in kernel.fleet.devices} == {100}


async def test_an_engine_that_dies_takes_no_stream_with_it(kernel: Kernel, clock: Ahead) -> None:
    await replicated(kernel, clock)
    first, second = (device.residency for device in kernel.fleet.devices)
    survivor = second.engine.pid
    async with first.lease(SPEC) as one, second.lease(SPEC) as other:
        killed = first.engine.pid
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        assert await asyncio.gather(ask(one), ask(other)) == [list(PROMPT)] * 2
    assert second.engine.pid == survivor
    assert first.engine.pid not in (None, killed)


async def test_each_engine_has_its_part_of_the_cores(kernel: Kernel) -> None:
    environs = [device.residency.engine._environ for device in kernel.fleet.devices]
    assert [one["LLMOS_THREADS"] for one in environs] == ["1", "1"]
    assert [device.name for device in kernel.fleet.devices] == ["cpu:0", "cpu:1"]


async def test_a_job_of_several_processes_has_the_devices_with_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    monkeypatch.syspath_prepend(str(CHILDREN))
    harness = Harness(tmp_path, on_cpu=False, capacity_bytes=100, engines=4)
    await harness.kernel.start()
    ledgers = harness.kernel.fleet.ledgers
    ledgers["cuda:1"].reserve("a model", 90)
    ledgers["cuda:2"].reserve("a model", 20)
    os.mkfifo(pipe := tmp_path / "pipe")
    submitted = await harness.submit("tell_devices", bytes=90, devices=3, pipe=str(pipe))
    await harness.until_logged(submitted, "computing")
    held = {name: ledger.reserved(f"job:{submitted.id}") for name, ledger in ledgers.items()}
    assert held == {"cuda:0": 30, "cuda:1": None, "cuda:2": 30, "cuda:3": 30}
    await asyncio.to_thread(pipe.write_text, "go")
    job = await harness.ended(submitted)
    assert job.result["devices"] == ["cuda:0", "cuda:3", "cuda:2"]
    await harness.close()
    assert all(not ledger.reserved(f"job:{submitted.id}") for ledger in ledgers.values())
