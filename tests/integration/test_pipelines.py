"""Pipelines over a real kernel: workers as processes, and servers that are killed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from llmos.kernel.jobs import JobState

CHILDREN = Path(__file__).parent
CHAIN: dict[str, Any] = {
    "name": "chain",
    "steps": {
        "first": {"kind": "count", "params": {"steps": 2}},
        "second": {
            "kind": "double",
            "each": {"value": [1, 20]},
            "params": {"value": "${each.value}", "of": "${first.model}"},
        },
        "third": {"kind": "double", "params": {"value": "${second.results.doubled}"}},
    },
}
LABELS = ["chain/first", "chain/second[0]", "chain/second[1]", "chain/third"]


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(CHILDREN))
    monkeypatch.syspath_prepend(str(CHILDREN))


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[Any]:
    from kernel_children.pipelines import Home

    home = Home(tmp_path)
    await home.start()
    yield home
    await home.close()


async def state_at_the_end(home: Any) -> str:
    async with asyncio.timeout(60):
        await home.ended.arrived.wait()
    (state,) = home.ended.states
    return str(state)


async def test_steps_run_one_after_another_on_what_the_ones_before_made(home: Any) -> None:
    from kernel_children.pipelines import ALICE

    await home.runs.start(ALICE, CHAIN)
    assert await state_at_the_end(home) == "succeeded"
    jobs = {job.name: job for job in await home.kernel.jobs.list()}
    assert sorted(jobs) == LABELS
    assert jobs["chain/second[1]"].params == {"value": 20, "of": "chain/first:1"}
    assert jobs["chain/third"].result == {"doubled": [2, 40, 2, 40], "artifacts": []}


async def test_a_failed_step_ends_the_run_and_a_retry_repeats_it_alone(home: Any) -> None:
    from kernel_children.pipelines import ALICE

    steps = {"first": CHAIN["steps"]["first"], "wrong": {"kind": "mistake", "after": ["first"]}}
    run = await home.runs.start(ALICE, {"name": "chain", "steps": steps})
    assert await state_at_the_end(home) == "failed"
    assert "The data is empty." in (await home.runs.get(run.id)).error["message"]
    home.ended.states.clear()
    home.ended.arrived.clear()
    await home.runs.retry(run.id, ALICE)
    assert await state_at_the_end(home) == "failed"
    attempts = {job.name: job.attempt for job in await home.kernel.jobs.list()}
    assert attempts == {"chain/first": 1, "chain/wrong": 2}


async def test_a_cancelled_run_stops_its_running_job(home: Any) -> None:
    from kernel_children.pipelines import ALICE

    after = {"kind": "double", "after": "wait", "params": {"value": 1}}
    steps = {"wait": {"kind": "wait_for_cancel"}, "next": after}
    run = await home.runs.start(ALICE, {"name": "chain", "steps": steps})
    (job,) = await home.kernel.jobs.list()
    async with aclosing(home.kernel.follow(job.id)) as events:
        async for event in events:
            if event.data.get("line") == "waiting":
                await home.runs.cancel(run.id, ALICE)
    assert (await home.kernel.jobs.get(job.id)).state is JobState.CANCELLED
    assert len(await home.kernel.jobs.list()) == 1


def run_and_kill_server(home: Path, num_events: int) -> None:
    """Start the chain in a server and kill that after so many events of its jobs."""
    command = [sys.executable, "-m", "kernel_children.pipelines", str(home), json.dumps(CHAIN)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        for _ in range(num_events):
            assert server.stdout.readline()
        server.kill()


@pytest.mark.parametrize("num_events", [1, 7])
async def test_a_run_survives_kill_9_of_the_server_and_makes_each_job_once(
    tmp_path: Path, num_events: int
) -> None:
    from kernel_children.pipelines import Home

    run_and_kill_server(tmp_path, num_events)
    home = Home(tmp_path)
    await home.start()
    try:
        assert await state_at_the_end(home) == "succeeded"
        jobs = await home.kernel.jobs.list()
        assert sorted(job.name for job in jobs) == LABELS
        assert {job.state for job in jobs} == {JobState.SUCCEEDED}
        assert [version.ref for version in home.library.list("dataset")] == ["chain/first:1"]
    finally:
        await home.close()
