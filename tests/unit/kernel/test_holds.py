"""One worker, whose process is a list of what was done to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from llmos.kernel import holds
from llmos.kernel.holds import Hold
from llmos.kernel.protocol import PauseJob

SIGSTOP, SIGCONT = signal.SIGSTOP, signal.SIGCONT


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Channel:
    def __init__(self, done: list[object]) -> None:
        self.send: Callable[[object], None] = done.append


class FakeChild:
    """Notes what it is sent and signalled, in order."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.channel = Channel(self.done)
        self.is_gone = False

    def signal_group(self, number: signal.Signals) -> bool:
        if not self.is_gone:
            self.done.append(number)
        return not self.is_gone


@pytest.fixture
def child() -> FakeChild:
    return FakeChild()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def hold(child: FakeChild, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Of a worker that has said something."""
    monkeypatch.setattr(holds, "PAUSE_GRACE_S", 0.0)
    made = Hold(child, clock, stops=True)  # type: ignore[arg-type]
    made.heard()
    return made


async def grace() -> None:
    """Let the grace period pass."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_it_is_held_while_there_is_any_reason(hold: Hold, child: FakeChild) -> None:
    hold.add("user")
    hold.add("interactive")
    hold.add("interactive")
    assert hold.reasons == ("user", "interactive")
    assert child.done == [PauseJob(True)]
    hold.remove("interactive")
    hold.remove("interactive")
    assert hold.reasons == ("user",)
    hold.remove("user")
    assert child.done == [PauseJob(True), PauseJob(False)]
    await grace()
    assert SIGSTOP not in child.done


async def test_one_that_answers_is_not_stopped_and_its_time_does_not_count(
    hold: Hold, child: FakeChild, clock: Clock
) -> None:
    clock.now += 5.0
    hold.add("interactive")
    clock.now += 1.0
    hold.answered(True)
    await grace()
    clock.now += 10.0
    assert hold.active_s() == 6.0
    hold.remove("interactive")
    assert child.done == [PauseJob(True), PauseJob(False, 10.0)]
    clock.now += 2.0
    assert hold.active_s() == 8.0


async def test_one_that_does_not_answer_is_stopped_and_continued(
    hold: Hold, child: FakeChild, clock: Clock
) -> None:
    hold.add("interactive")
    clock.now += 1.0
    await grace()
    assert hold.is_stopped
    clock.now += 100.0
    assert (hold.active_s(), hold.silent_s()) == (1.0, 1.0)
    hold.remove("interactive")
    assert child.done == [PauseJob(True), SIGSTOP, PauseJob(False, 100.0), SIGCONT]
    clock.now += 2.0
    assert (hold.active_s(), hold.silent_s()) == (3.0, 3.0)


async def test_what_it_said_before_it_was_stopped_counts_when_it_is_read_later(
    hold: Hold, clock: Clock
) -> None:
    hold.add("interactive")
    await grace()
    clock.now += 4.0
    hold.heard()
    hold.answered(True)
    clock.now += 4.0
    assert hold.silent_s() == 0.0
    hold.remove("interactive")
    assert hold.silent_s() == 0.0
    clock.now += 1.0
    assert hold.silent_s() == 1.0


async def test_one_that_had_gone_on_when_it_was_held_again_is_waited_for_anew(
    hold: Hold, child: FakeChild, clock: Clock
) -> None:
    """Its answers to the first hold arrive after the second one began."""
    hold.add("interactive")
    hold.remove("interactive")
    hold.add("interactive")
    hold.answered(True)
    hold.answered(False)
    clock.now += 3.0
    assert hold.active_s() == 3.0
    await grace()
    assert child.done[-1] is SIGSTOP


async def test_an_answer_that_comes_when_it_is_let_go_changes_nothing(
    hold: Hold, clock: Clock
) -> None:
    hold.add("user")
    hold.remove("user")
    hold.answered(True)
    clock.now += 3.0
    assert hold.active_s() == 3.0


async def test_one_that_is_not_up_yet_is_stopped_only_when_it_is(
    child: FakeChild, clock: Clock, hold: Hold
) -> None:
    fresh = Hold(child, clock, stops=True)  # type: ignore[arg-type]
    fresh.add("interactive")
    await grace()
    assert not fresh.is_stopped
    fresh.heard()
    assert fresh.is_stopped
    let_go = Hold(child, clock, stops=True)  # type: ignore[arg-type]
    let_go.add("interactive")
    await grace()
    let_go.remove("interactive")
    let_go.heard()
    assert not let_go.is_stopped


async def test_where_stopping_is_of_no_use_it_is_only_asked(
    child: FakeChild, clock: Clock, hold: Hold
) -> None:
    asked = Hold(child, clock, stops=False)  # type: ignore[arg-type]
    asked.heard()
    asked.add("interactive")
    await grace()
    assert child.done == [PauseJob(True)]
    clock.now += 3.0
    assert asked.active_s() == 3.0


async def test_one_that_is_to_end_goes_on_and_is_never_held_again(
    hold: Hold, child: FakeChild
) -> None:
    hold.add("user")
    await grace()
    hold.end()
    assert child.done == [PauseJob(True), SIGSTOP, PauseJob(False), SIGCONT]
    hold.add("interactive")
    hold.end()
    assert hold.reasons == ()
    assert len(child.done) == 4


async def test_one_that_is_gone_is_not_stopped(hold: Hold, child: FakeChild) -> None:
    hold.add("user")
    child.is_gone = True
    await grace()
    assert not hold.is_stopped


async def test_one_that_is_held_already_can_be_asked_for_its_memory(
    hold: Hold, child: FakeChild
) -> None:
    hold.add("interactive")
    hold.answered(True)
    hold.add("preempted", give_memory=True)
    assert child.done == [PauseJob(True), PauseJob(True, give_memory=True)]
    assert not hold.is_parked
    hold.answered(True, gave_memory=True)
    assert hold.is_parked
    hold.remove("preempted")
    assert not hold.is_parked  # though it still stands still
    hold.add("preempted", give_memory=True)
    assert hold.is_parked
    hold.remove("preempted")
    hold.remove("interactive")
    assert not hold.gave_memory.is_set()
    assert isinstance(child.done[-1], PauseJob) and not child.done[-1].paused
