from __future__ import annotations

import dataclasses
import math

import pytest

from llmos.kernel.jobs import Job, JobState
from llmos.kernel.yielder import Yielder
from llmos.kernel.yielding import TURN_S
from llmos.types import Priority

AGEING_S = 300.0


class FakeWorkers:
    def __init__(self) -> None:
        self.held: set[int] = set()

    def hold(self, job_id: int, reason: str) -> None:
        assert reason == "interactive"
        self.held.add(job_id)

    def release(self, job_id: int, reason: str) -> None:
        assert reason == "interactive"
        self.held.discard(job_id)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def job(id: int, priority: Priority = Priority.STANDARD) -> Job:
    values = dict.fromkeys(field.name for field in dataclasses.fields(Job))
    return Job(**(values | {"id": id, "priority": priority, "state": JobState.RUNNING}))


@pytest.fixture
def workers() -> FakeWorkers:
    return FakeWorkers()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def yielder(workers: FakeWorkers, clock: Clock) -> Yielder:
    return Yielder(workers, clock, AGEING_S)  # type: ignore[arg-type]


def test_an_interactive_request_is_under_way_until_the_last_of_them_has_ended(
    yielder: Yielder, clock: Clock
) -> None:
    assert yielder.interactive_at(7.0) == -math.inf
    yielder.request_began()
    yielder.request_began()
    clock.now += 5.0
    yielder.request_ended()
    clock.now += 5.0
    assert yielder.interactive_at(7.0) == math.inf
    yielder.request_ended()
    clock.now += 5.0
    assert yielder.interactive_at(7.0) == 2.0


def test_the_time_a_job_is_held_is_owed_to_it_and_running_pays_it_back(
    yielder: Yielder, workers: FakeWorkers, clock: Clock
) -> None:
    assert yielder.owed(job(1)) == (0.0, False)
    yielder.pause(1)
    assert workers.held == {1}
    clock.now += 100.0
    assert yielder.owed(job(1)) == (100.0, False)
    yielder.let_go_on(1, has_turn=False)
    assert workers.held == set()
    clock.now += TURN_S / 6
    assert yielder.owed(job(1)) == (pytest.approx(50.0), False)
    yielder.pause(1)
    clock.now += 250.0
    yielder.let_go_on(1, has_turn=True)
    assert yielder.owed(job(1)) == (pytest.approx(300.0), True)
    yielder.pause(1)
    assert yielder.owed(job(1))[1] is False


def test_nothing_is_owed_to_the_next_attempt(yielder: Yielder, clock: Clock) -> None:
    yielder.owed(job(1))
    yielder.pause(1)
    clock.now += 100.0
    yielder.forget(1)
    yielder.pause(1)
    assert yielder.owed(job(1)) == (0.0, False)


def test_it_says_when_held_jobs_wait_for_no_request_any_more(yielder: Yielder) -> None:
    yielder.request_began()
    yielder.owed(job(1))
    yielder.pause(1)
    assert not yielder.is_waiting
    yielder.request_ended()
    assert yielder.is_waiting
    yielder.let_go_on(1, has_turn=False)
    assert not yielder.is_waiting
