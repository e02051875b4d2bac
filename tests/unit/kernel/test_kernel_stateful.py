"""The scheduler's promises, kept over 10,000 random steps on the real queue, in both its stores."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.unit.kernel.pretended import KINDS, LONGEST_LEAP_S, MODELS, World

from llmos.errors import ConflictError
from llmos.kernel.jobs import JobState
from llmos.storage.database import Database
from llmos.storage.memory import MemoryDatabase
from llmos.types import Priority

STEPS_PER_RUN = 100

priorities = st.sampled_from(Priority)
indices = st.integers(0, 50)


class KernelMachine(RuleBasedStateMachine):
    """Does to a `World` what users, workers, the engine and time do."""

    make_world: Any

    def __init__(self) -> None:
        super().__init__()
        self.world: World = self.make_world()
        self.job_ids: list[int] = []

    def _worker(self, index: int) -> Any:
        workers = [*self.world.workers.values()]
        return workers[index % len(workers)]

    has_workers = precondition(lambda self: self.world.workers)
    has_jobs = precondition(lambda self: self.job_ids)

    @rule(
        kind=st.sampled_from(sorted(KINDS)),
        priority=priorities,
        owner=st.sampled_from("ab"),
        num_bytes=st.sampled_from([0, 10, 30, 50, 90]),
        after=st.none() | indices,
    )
    def submit(
        self, kind: str, priority: Priority, owner: str, num_bytes: int, after: int | None
    ) -> None:
        after_ids = []
        if after is not None and self.job_ids:
            after_ids = [self.job_ids[after % len(self.job_ids)]]
            owner = self.world.run(self.world.queue.get(after_ids[0])).owner
        work = self.world.queue.submit(
            kind, {"bytes": num_bytes}, owner=owner, priority=priority, after=after_ids
        )
        try:
            self.job_ids.append(self.world.run(work).id)
        except ConflictError:
            assert after_ids
        self.world.settle()

    @has_jobs
    @rule(index=indices)
    def cancel(self, index: int) -> None:
        job_id = self.job_ids[index % len(self.job_ids)]
        try:
            self.world.run(self.world.queue.cancel(job_id, "a"))
        except ConflictError:
            assert self.world.run(self.world.queue.get(job_id)).state.is_final
        self.world.settle()

    @has_workers
    @rule(index=indices, paused=st.booleans())
    def pause(self, index: int, paused: bool) -> None:
        job_id = self._worker(index).job.id
        self.world.run(self.world.queue.set_paused(job_id, paused, "a"))
        self.world.settle()

    @has_jobs
    @rule(index=indices)
    def resume(self, index: int) -> None:
        job = self.world.run(self.world.queue.get(self.job_ids[index % len(self.job_ids)]))
        if job.state is JobState.PAUSED:
            self.world.run(self.world.queue.set_paused(job.id, False, "a"))
        self.world.settle()

    @has_workers
    @rule(index=indices, how=st.sampled_from(["done", "done", "error", "mistake"]))
    def attempt_ends(self, index: int, how: Literal["done", "error", "mistake"]) -> None:
        self.world.end_attempt(self._worker(index), how)
        self.world.settle()

    @has_workers
    @rule(index=indices)
    def worker_falls_silent(self, index: int) -> None:
        self._worker(index).is_silent = True

    @rule(key=st.sampled_from(sorted(MODELS)), priority=priorities)
    def ask(self, key: str, priority: Priority) -> None:
        self.world.ask(key, priority)
        self.world.settle()

    @rule(key=st.sampled_from(sorted(MODELS)))
    def request_ends(self, key: str) -> None:
        self.world.request_ends(key)
        self.world.settle()

    @rule()
    def engine_answers(self) -> None:
        self.world.engine_answers()
        self.world.settle()

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0, 70.0, LONGEST_LEAP_S]))
    def time_passes(self, seconds: float) -> None:
        self.world.pass_time(seconds)
        self.world.engine_answers()
        self.world.settle()

    @precondition(lambda self: len(self.job_ids) > 10)
    @rule()
    def server_is_killed(self) -> None:
        self.world.begin()
        self.world.settle()

    def teardown(self) -> None:
        self.world.drain()
        for job_id in self.job_ids:
            job = self.world.run(self.world.queue.get(job_id))
            assert job.state in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@pytest.fixture(params=["memory", "sqlite"])
def store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Database, int]]:
    """A database, and for how many runs. The machine does not crash, so no disk is awaited."""
    if request.param == "memory":
        database, num_runs = MemoryDatabase(), 70
    else:
        pragmas = ("journal_mode=WAL", "synchronous=OFF", "foreign_keys=ON")
        monkeypatch.setattr("llmos.storage.database.WRITER_PRAGMAS", pragmas)
        database, num_runs = Database.open(tmp_path / "llmos.db"), 30
    yield database, num_runs
    database.close()


def test_whatever_happens_the_scheduler_keeps_its_promises(store: tuple[Database, int]) -> None:
    """The ledger is never over-committed, no model in use is evicted, every accepted job ends,
    nothing waits past the ageing bound while worse classes run, no worker idles beside work that
    fits, no hold is endless, and the same state always gives the same decision."""
    database, num_runs = store
    loop = asyncio.new_event_loop()
    machine = type("Machine", (KernelMachine,), {"make_world": lambda self: World(database, loop)})
    quick = settings(
        max_examples=num_runs,
        stateful_step_count=STEPS_PER_RUN,
        deadline=None,
        derandomize=True,
        phases=(Phase.generate,),  # to shrink what was found takes minutes
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=quick)
    finally:
        loop.close()
