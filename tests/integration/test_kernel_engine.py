from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import psutil
import pytest

from llmos.errors import (
    ContextLengthError,
    DeadlineExceededError,
    EngineError,
    InvalidModelError,
    InvalidRequestError,
    OutOfMemoryError,
    OverloadedError,
)
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger
from llmos.kernel.residency import Lease, ModelSpec
from llmos.kernel.scheduler import DRAIN_S
from llmos.settings import Settings
from llmos.storage.memory import MemoryDatabase
from llmos.types import (
    GenerateWork,
    PipelineOut,
    PipelineWork,
    Priority,
    SamplingParams,
    TokensOut,
)

CHILDREN = Path(__file__).parent
PROMPT = tuple(range(100, 120))
POISON, WRONG = 666, 13
Asked = asyncio.Future[list[int]]


def spec(name: str, num_bytes: int = 100, **manifest: Any) -> ModelSpec:
    return ModelSpec(name, "echo", "/nowhere", manifest, num_bytes, name)


def work(*prompt: int) -> GenerateWork:
    return GenerateWork(prompt or PROMPT, SamplingParams())


def row(*ids: int) -> PipelineWork:
    return PipelineWork("seq2seq", ids or PROMPT)


async def tokens(lease: Lease, asked: GenerateWork) -> list[int]:
    """Read a whole stream."""
    return [piece.token_id async for out in lease.generate(asked) for piece in out.pieces]


async def ask(kernel: Kernel, model: ModelSpec) -> list[int]:
    """Lease a model for one stream."""
    async with kernel.residency.lease(model) as lease:
        return await tokens(lease, work())


@pytest.fixture
def module() -> str:
    return "kernel_children.echo_host"


class Ahead:
    """A clock that tests put forward."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.by_s = 0.0
        self._clock = clock

    def __call__(self) -> float:
        return self._clock() + self.by_s


@pytest.fixture
def clock() -> Ahead:
    """The monotonic one."""
    return Ahead(time.monotonic)


@pytest.fixture
def unix_clock() -> Ahead:
    return Ahead(time.time)


@pytest.fixture
async def kernel(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    clock: Ahead,
    unix_clock: Ahead,
) -> AsyncIterator[Kernel]:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    database = MemoryDatabase()
    kernel = Kernel(
        database,
        Ledger(250),
        {},
        Settings(home=tmp_path, threads=1, max_queue=8, idle_s=60.0),
        unix_clock,
        lambda connection, job, result: None,
        rng=random.Random(0),
        engine_module=module,
        monotonic=clock,
    )
    await kernel.start()
    yield kernel
    await kernel.stop()
    database.close()


def states(kernel: Kernel) -> dict[str, str]:
    return {model["name"]: model["state"] for model in kernel.residency.status()}


async def read_five_then_kill(kernel: Kernel, lease: Lease) -> list[int]:
    """Read five tokens of a stream that stalls there, kill the engine, and read the rest."""
    seen: list[int] = []
    async with aclosing(lease.generate(work())) as stream:
        async for out in stream:
            seen += [piece.token_id for piece in out.pieces]
            if len(seen) == 5 and out.pieces:
                os.kill(kernel.residency.engine.pid, signal.SIGKILL)
    return seen


async def test_a_leased_model_is_loaded_and_answers(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a")) as lease:
        assert await tokens(lease, work()) == list(PROMPT)
        assert await lease.run(row(1, 2)) == PipelineOut(token_ids=(1, 2))
        assert states(kernel) == {"a": "ready"}
    assert kernel.ledger.reservations() == {"model:a:a": 100}


async def test_concurrent_leases_share_one_load(kernel: Kernel, tmp_path: Path) -> None:
    shared = spec("a", loads=str(tmp_path / "loads"))

    answers = await asyncio.gather(*(ask(kernel, shared) for _ in range(8)))
    assert answers == [list(PROMPT)] * 8
    assert (tmp_path / "loads").read_text().splitlines() == ["a"]


async def test_a_failed_load_reaches_everyone_who_waits_and_the_next_tries_again(
    kernel: Kernel, tmp_path: Path
) -> None:
    broken = spec("a", load_error="invalid_model", loads=str(tmp_path / "loads"))
    outcomes = await asyncio.gather(
        *(ask(kernel, broken) for _ in range(3)), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [InvalidModelError] * 3
    assert str(outcomes[0]) == "it is broken"
    assert kernel.ledger.reserved_bytes == 0
    assert kernel.residency.status() == []
    with pytest.raises(InvalidModelError):
        await ask(kernel, broken)
    assert len((tmp_path / "loads").read_text().splitlines()) == 2


async def test_a_stream_whose_engine_is_killed_goes_on_with_the_same_tokens(
    kernel: Kernel, tmp_path: Path
) -> None:
    stalling = spec("a", stall_after=5, loads=str(tmp_path / "loads"))
    async with kernel.residency.lease(stalling) as lease:
        assert await read_five_then_kill(kernel, lease) == list(PROMPT)
    assert len((tmp_path / "loads").read_text().splitlines()) == 2
    assert kernel.ledger.reservations() == {"model:a:a": 100}


async def test_idle_models_are_let_go_when_the_engine_dies(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("idle")):
        pass
    async with kernel.residency.lease(spec("a", stall_after=5)) as lease:
        assert await read_five_then_kill(kernel, lease) == list(PROMPT)
        assert states(kernel) == {"a": "ready"}
    assert kernel.ledger.reservations() == {"model:a:a": 100}


async def test_a_request_that_kills_the_engine_fails_alone(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a")) as lease:
        poison = asyncio.ensure_future(lease.run(row(POISON)))
        others = [asyncio.ensure_future(tokens(lease, work())) for _ in range(3)]
        with pytest.raises(EngineError, match="3 times in a row at this request"):
            await poison
        assert await asyncio.gather(*others) == [list(PROMPT)] * 3


async def test_a_request_that_cannot_be_sent_fails_alone_and_the_engine_outlives_its_death(
    kernel: Kernel,
) -> None:
    async with kernel.residency.lease(spec("a", stall_after=5)) as lease:
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await tokens(lease, work(2**64))
        with pytest.raises(InvalidRequestError, match="cannot be sent"):
            await lease.run(row(10**400))
        assert await read_five_then_kill(kernel, lease) == list(PROMPT)
    assert await ask(kernel, spec("b")) == list(PROMPT)


async def test_a_model_whose_manifest_cannot_be_sent_is_refused_and_others_load(
    kernel: Kernel,
) -> None:
    for _ in range(2):  # before there is an engine, and when it is up
        with pytest.raises(InvalidModelError, match="manifest of bad cannot be sent"):
            await ask(kernel, spec("bad", layers=10**400))
        assert await ask(kernel, spec("good")) == list(PROMPT)
    assert kernel.ledger.reservations() == {"model:good:good": 100}


async def test_a_model_that_kills_the_engine_at_load_is_given_up(kernel: Kernel) -> None:
    with pytest.raises(EngineError, match="ended with status 3 while it loaded bad"):
        await ask(kernel, spec("bad", die_on_load=True))
    async with kernel.residency.lease(spec("good")) as lease:
        assert await tokens(lease, work()) == list(PROMPT)


@pytest.mark.parametrize("module", ["kernel_children.no_such_host"])
async def test_an_engine_that_cannot_start_is_an_error_not_a_hang(
    kernel: Kernel, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"engine\.log"):
        await ask(kernel, spec("a"))
    assert "no_such_host" in (tmp_path / "logs" / "engine.log").read_text()


async def test_a_wrong_request_fails_alone(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a")) as lease:
        with pytest.raises(ContextLengthError, match="too long"):
            await tokens(lease, work(WRONG))
        assert await tokens(lease, work()) == list(PROMPT)


async def test_closing_a_stream_cancels_it_in_the_engine(kernel: Kernel, tmp_path: Path) -> None:
    async with kernel.residency.lease(spec("a", stall_after=5)) as lease:
        async with aclosing(lease.generate(work())) as stream:
            await anext(stream)
        left = lease.generate(work())
        await anext(left)
    with pytest.raises(EngineError, match="given up"):
        async for _ in left:
            pass
    async with kernel.residency.lease(spec("a")) as lease:
        await lease.run(row())
    log = (tmp_path / "logs" / "engine.log").read_text()
    cancelled = [line for line in log.splitlines() if line.startswith("cancelled")]
    assert cancelled == ["cancelled 1", "cancelled 2"]


async def test_too_many_works_of_one_request_are_refused(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a", stall_after=5)) as lease:
        streams = [lease.generate(work()) for _ in range(8)]
        for stream in streams:
            await anext(stream)
        with pytest.raises(OverloadedError, match="8 works"):
            await lease.run(row())
        for stream in streams:
            await stream.aclose()
        assert await lease.run(row()) == PipelineOut(token_ids=PROMPT)


async def hold(kernel: Kernel, model: ModelSpec, priority: Priority, let_go: asyncio.Event) -> None:
    async with kernel.residency.lease(model, priority):
        await let_go.wait()


async def test_beyond_the_queue_of_a_class_requests_are_refused_and_the_others_finish(
    kernel: Kernel,
) -> None:
    let_go = asyncio.Event()
    held = [
        asyncio.ensure_future(hold(kernel, spec("a"), Priority.STANDARD, let_go)) for _ in range(8)
    ]
    async with kernel.residency.lease(spec("a"), Priority.BATCH) as lease:
        with pytest.raises(OverloadedError, match="standard requests are at a") as refused:
            await ask(kernel, spec("a"))
        assert refused.value.retry_after_s >= 1
        assert await tokens(lease, work()) == list(PROMPT)
        let_go.set()
        await asyncio.gather(*held)
    assert await ask(kernel, spec("a")) == list(PROMPT)
    tally = kernel.residency.telemetry.of("a").classes
    assert tally[Priority.STANDARD].outcomes == {"ok": 9, "overloaded": 1}
    assert tally[Priority.BATCH].outcomes == {"ok": 1}


async def test_works_count_and_a_tenant_keeps_none_of_the_others_out(kernel: Kernel) -> None:
    async def admitted(tenant: str, num_works: int) -> bool:
        try:
            lease = kernel.residency.lease(spec("a"), tenant=tenant, num_works=num_works)
            async with lease:
                return True
        except OverloadedError:
            return False

    async with kernel.residency.lease(spec("a"), tenant="greedy", num_works=8):
        assert [await admitted("greedy", 1), await admitted("other", 4)] == [False, True]
        assert not await admitted("other", 5)
    assert await admitted("greedy", 8)


async def until_ended(lease: Lease) -> None:
    """Return when the engine has nothing more to do for a lease."""
    for live in list(lease._live):
        if live.state != "ended":
            ended = asyncio.Event()
            on_end = live.on_end

            def told(on_end: Callable[[], None] = on_end, ended: asyncio.Event = ended) -> None:
                on_end()
                ended.set()

            live.on_end = told
            await ended.wait()


async def test_what_has_ended_holds_nothing_however_late_it_is_read(kernel: Kernel) -> None:
    streams = []
    leases = kernel.residency.lease(spec("a"), tenant="t", num_works=2, ends_early=True)
    async with leases as lease:
        for _ in range(2):
            assert kernel.residency.status()[0]["requests"] == 1
            stream = lease.generate(work())
            first = await anext(stream)
            await until_ended(lease)
            streams.append((stream, first))
        assert kernel.residency.status()[0]["requests"] == 0
        assert not kernel.residency._models["a"].queues[Priority.STANDARD].num_works
        for stream, first in streams:
            rest = [piece async for out in stream for piece in out.pieces]
            assert [piece.token_id for piece in (*first.pieces, *rest)] == list(PROMPT)
    assert kernel.residency.status()[0]["requests"] == 0


async def test_a_deadline_fires_while_the_model_is_waited_for(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a", 200)):
        with pytest.raises(DeadlineExceededError):
            async with kernel.residency.lease(spec("b", 200), deadline_s=0.01):
                pass
        assert states(kernel) == {"a": "ready"}


async def test_a_deadline_of_the_lease_ends_its_streams(kernel: Kernel) -> None:
    stalling = spec("a", stall_after=5)
    async with kernel.residency.lease(stalling):
        with pytest.raises(DeadlineExceededError):
            async with kernel.residency.lease(stalling, deadline_s=0.05) as lease:
                await tokens(lease, work())
    assert kernel.residency.telemetry.of("a").classes[1].outcomes["deadline_exceeded"] == 1


async def test_an_engine_that_hangs_is_restarted_and_the_stream_goes_on(
    kernel: Kernel, clock: Ahead, tmp_path: Path
) -> None:
    seen: list[int] = []
    hanging = spec("a", stall_after=5, loads=str(tmp_path / "loads"))
    async with (
        kernel.residency.lease(hanging) as lease,
        aclosing(lease.generate(work())) as stream,
    ):
        async for out in stream:
            seen += [piece.token_id for piece in out.pieces]
            if len(seen) == 5 and out.pieces:
                pid = kernel.residency.engine.pid
                kernel.residency.end_if_stalled()
                clock.by_s += 119.0
                kernel.residency.end_if_stalled()
                assert kernel.residency.engine.pid == pid
                clock.by_s += 2.0
                await kernel.step()
    assert seen == list(PROMPT)
    assert kernel.residency.engine.pid != pid
    assert len((tmp_path / "loads").read_text().splitlines()) == 2


async def test_an_engine_without_work_may_be_silent(kernel: Kernel, clock: Ahead) -> None:
    async with kernel.residency.lease(spec("a")) as lease:
        await lease.run(row())
        pid = kernel.residency.engine.pid
        clock.by_s += 10_000.0
        await kernel.step()
        assert await lease.run(row()) == PipelineOut(token_ids=PROMPT)
        assert kernel.residency.engine.pid == pid


async def test_an_idle_model_makes_room_and_a_leased_one_does_not(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a", 150, weights_bytes=150)):
        pass
    async with kernel.residency.lease(spec("b", 150, weights_bytes=150)):
        assert states(kernel) == {"b": "ready"}
        waiting = asyncio.ensure_future(ask(kernel, spec("c", 160)))
        await kernel.step()
        assert states(kernel) == {"b": "ready", "c": "absent"}
    assert await waiting == list(PROMPT)
    assert states(kernel) == {"c": "ready"}


async def test_two_that_are_asked_in_turn_stay_though_a_third_was_as_popular(
    kernel: Kernel, unix_clock: Ahead
) -> None:
    models = [spec(name, 120, weights_bytes=120) for name in "abc"]  # two fit
    for model in models:
        for _ in range(20):
            await ask(kernel, model)
    for _ in range(5):
        for model in models[:2]:
            unix_clock.by_s += 1.0
            await ask(kernel, model)
    assert states(kernel) == {"a": "ready", "b": "ready"}


async def test_models_in_use_take_turns(kernel: Kernel, unix_clock: Ahead) -> None:
    first, second = spec("a", 150, weights_bytes=150), spec("b", 150, weights_bytes=150)
    async with kernel.residency.lease(first) as lease:
        waiting = asyncio.ensure_future(ask(kernel, second))
        await kernel.step()
        assert await ask(kernel, first) == list(PROMPT)  # its turn is not over
        unix_clock.by_s += 3.0
        await kernel.step()
        late = asyncio.ensure_future(ask(kernel, first))
        await kernel.step()
        assert await tokens(lease, work()) == list(PROMPT)  # who holds a lease goes on
        assert states(kernel) == {"a": "ready", "b": "absent"}
        assert not waiting.done() and not late.done()
        assert [one["draining"] for one in kernel.residency.status()] == [True, False]
    assert await waiting == list(PROMPT)
    assert await late == list(PROMPT)
    assert states(kernel) == {"a": "ready"}


async def test_turns_do_not_grow_with_the_swaps(kernel: Kernel, unix_clock: Ahead) -> None:
    models = [spec("a", 150, weights_bytes=150), spec("b", 150, weights_bytes=150)]
    async with contextlib.AsyncExitStack() as held:
        await held.enter_async_context(kernel.residency.lease(models[0]))
        for _ in range(6):
            models.reverse()
            waiting = asyncio.ensure_future(
                held.enter_async_context(kernel.residency.lease(models[0]))
            )
            await kernel.step()
            unix_clock.by_s += 2.1  # four times what its load took
            await kernel.step()
            assert any(one["draining"] for one in kernel.residency.status())
            late = asyncio.ensure_future(ask(kernel, models[1]))
            await kernel.step()
            unix_clock.by_s += 5.0
            await held.pop_all().aclose()
            await waiting
            late.cancel()
            await asyncio.wait([late])


@contextlib.asynccontextmanager
async def draining(kernel: Kernel, clock: Ahead) -> AsyncIterator[tuple[ModelSpec, Asked]]:
    """Hold a model that is drained for another; give it, and the request that waits."""
    first, second = spec("a", 150, weights_bytes=150), spec("b", 150, weights_bytes=150)
    async with kernel.residency.lease(first):
        waiting = asyncio.ensure_future(ask(kernel, second))
        await kernel.step()
        clock.by_s += 3.0
        await kernel.step()
        assert kernel.residency.status()[0]["draining"]
        yield first, waiting


async def test_a_model_that_stays_in_use_is_not_drained_for_ever(
    kernel: Kernel, unix_clock: Ahead
) -> None:
    async with draining(kernel, unix_clock) as (first, waiting):
        late = asyncio.ensure_future(ask(kernel, first))
        await kernel.step()
        assert not late.done()
        unix_clock.by_s += DRAIN_S
        await kernel.step()
        assert await late == list(PROMPT)
        assert not waiting.done()
    assert await waiting == list(PROMPT)


async def test_who_waits_for_nothing_more_lets_a_drained_model_go_on(
    kernel: Kernel, unix_clock: Ahead
) -> None:
    async with draining(kernel, unix_clock) as (first, waiting):
        waiting.cancel()
        await asyncio.wait([waiting])
        late = asyncio.ensure_future(ask(kernel, first))
        await kernel.step()
        assert await late == list(PROMPT)


async def test_a_model_takes_a_smaller_cache_where_memory_is_short(kernel: Kernel) -> None:
    large = dataclasses.replace(spec("a", 300, weights_bytes=300), spare_bytes=100)
    async with kernel.residency.lease(large):
        assert kernel.ledger.reservations() == {"model:a:a": 218}  # the rest is for adapters
    larger = dataclasses.replace(large, key="b", name="b", spare_bytes=49)
    with pytest.raises(OutOfMemoryError, match="251 B"):
        await ask(kernel, larger)


async def test_a_model_larger_than_it_seemed_gets_room_for_what_it_is(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("idle", 100)):
        pass
    async with kernel.residency.lease(spec("a", 50, weights_bytes=200)) as lease:
        assert await tokens(lease, work()) == list(PROMPT)
        assert kernel.ledger.reservations() == {"model:a:a": 200}


@pytest.mark.parametrize("model", [spec("a", 251), spec("b", 10, weights_bytes=251)])
async def test_a_model_that_cannot_fit_is_refused(kernel: Kernel, model: ModelSpec) -> None:
    with pytest.raises(OutOfMemoryError, match="memory_bytes"):
        await ask(kernel, model)
    assert kernel.ledger.reserved_bytes == 0


async def test_stopping_ends_the_engine_and_every_wait(kernel: Kernel) -> None:
    async with kernel.residency.lease(spec("a", stall_after=5)) as lease:
        stream = lease.generate(work())
        await anext(stream)
        engine = psutil.Process(kernel.residency.engine.pid)
        await kernel.stop()
        assert not engine.is_running()
        with pytest.raises(EngineError, match="stopping"):
            async for _ in stream:
                pass
    with pytest.raises(EngineError, match="stopping"):
        await ask(kernel, spec("a"))


@pytest.mark.parametrize("module", ["llmos.engines.host"])
async def test_the_real_engine_process_carries_a_stream_over_its_death(kernel: Kernel) -> None:
    asked = GenerateWork(PROMPT, SamplingParams(max_tokens=2000, ignore_eos=True))
    outs: list[TokensOut] = []
    async with (
        kernel.residency.lease(spec("a")) as lease,
        aclosing(lease.generate(asked)) as stream,
    ):
        async for out in stream:
            outs.append(out)
            if len(outs) == 10:
                os.kill(kernel.residency.engine.pid, signal.SIGKILL)
    seen = [piece.token_id for out in outs for piece in out.pieces]
    assert seen == [PROMPT[i % len(PROMPT)] for i in range(2000)]
    assert outs[-1].finish_reason == "length"
