"""kill -9 of server, engine and worker: nothing is lost, and nothing comes out differently."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Llmos, kill, running, until

LONG = (
    "steps=240",
    "batch_size=4",
    "eval_every=120",
    "eval_batches=1",
    "checkpoint_every=20",
    "optimizer.warmup_steps=5",
)
KILL_AT_STEP = 50


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llmos]:
    """A running llmos of this module's own, to be killed."""
    with running(
        tmp_path_factory.mktemp("breakable"), LLMOS_HEARTBEAT_S="1", LLMOS_LEASE_S="5"
    ) as started:
        yield started


@pytest.fixture(scope="module")
def changes(play: Path) -> tuple[str, ...]:
    return (*LONG, f"data.path={play}")


@pytest.fixture(scope="module")
def uninterrupted(breakable: Llmos, recipe: Path, changes: tuple[str, ...]) -> str:
    """Digest of the weights of a training that nothing disturbed."""
    breakable.succeeds(breakable.train(recipe, "calm", *changes))
    return breakable.weights("calm")


def test_a_training_outlives_its_engine_and_its_server_bit_for_bit(
    breakable: Llmos, recipe: Path, changes: tuple[str, ...], uninterrupted: str
) -> None:
    breakable.ok("run", "calm", "ROMEO:", "--max-tokens", "1")
    number = breakable.train(recipe, "server-killed", *changes)
    until(breakable.reaches_step(number, KILL_AT_STEP), "the training to get going")
    kill(until(breakable.engine, "an engine"))
    until(breakable.reaches_step(number, 2 * KILL_AT_STEP), "the training to go on")
    assert breakable.job(number)["attempt"] == 1
    worker = until(breakable.worker, "a worker")
    kill(breakable.server)
    until(lambda: not worker.is_running(), "the worker to follow its server")
    breakable.up()
    job = breakable.succeeds(number)
    assert job["attempt"] == 2
    assert breakable.weights("server-killed") == uninterrupted


def test_a_killed_worker_costs_one_attempt_and_no_bit(
    breakable: Llmos, recipe: Path, changes: tuple[str, ...], uninterrupted: str
) -> None:
    number = breakable.train(recipe, "worker-killed", *changes)
    until(breakable.reaches_step(number, KILL_AT_STEP), "the training to get going")
    worker = until(breakable.worker, "a worker")
    kill(worker)
    job = breakable.succeeds(number)
    assert job["attempt"] == 2
    assert breakable.weights("worker-killed") == uninterrupted


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_whose_engine_is_killed_goes_on_with_the_same_tokens(
    breakable: Llmos, uninterrupted: str, temperature: float
) -> None:
    options: dict[str, Any] = {
        "max_tokens": 400,
        "temperature": temperature,
        "seed": 11,
        "ignore_eos": True,
    }
    with breakable.client() as client:
        whole = client.generate("calm", "ROMEO:", **options)["text"]
        first_engine = until(breakable.engine, "an engine")
        pieces = []
        for chunk in client.generate("calm", "ROMEO:", stream=True, **options):
            pieces.append(chunk["text"])
            if len(pieces) == 5:
                kill(first_engine)
    assert "".join(pieces) == whole
    assert until(breakable.engine, "a new engine").pid != first_engine.pid


def test_a_killed_server_comes_back_with_everything(breakable: Llmos, uninterrupted: str) -> None:
    before = breakable.json("list")
    kill(breakable.server)
    assert "not running" in breakable.run("ps").stderr
    breakable.up()
    assert breakable.json("list") == before
    assert breakable.ok("run", "calm", "ROMEO:", "--max-tokens", "2")


def test_a_training_of_two_processes_outlives_one_of_them_bit_for_bit(
    breakable: Llmos, recipe: Path, changes: tuple[str, ...]
) -> None:
    shared = (*changes, "processes=2", "steps=60", "eval_every=60")
    breakable.succeeds(breakable.train(recipe, "shared-calm", *shared))
    number = breakable.train(recipe, "shared", *shared)
    until(breakable.reaches_step(number, 30), "the training to get going")
    worker = until(breakable.worker, "a worker")
    [other] = worker.children()
    kill(other)
    job = breakable.succeeds(number)
    assert job["attempt"] == 2 and not worker.is_running()
    assert breakable.weights("shared") == breakable.weights("shared-calm")
