from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest

from llmos.engines.slices import Breaks, Sliced


def counting(seen: list[int], upto: int) -> Callable[[Callable[[], bool]], str]:
    def compute(pause: Callable[[], bool]) -> str:
        for number in range(upto):
            seen.append(number)
            if pause():
                return "given up"
        return "done"

    return compute


def test_it_computes_only_while_it_is_let() -> None:
    seen: list[int] = []
    sliced = Sliced(counting(seen, 2))
    assert seen == []
    assert not sliced.advance()
    assert seen == [0]
    assert not sliced.advance()
    assert sliced.advance()
    assert sliced.advance()
    assert (seen, sliced.result()) == ([0, 1], "done")


def test_an_error_is_raised_to_the_owner() -> None:
    def compute(pause: Callable[[], bool]) -> None:
        pause()
        raise ZeroDivisionError

    sliced = Sliced(compute)
    assert not sliced.advance()
    with pytest.raises(ZeroDivisionError):
        sliced.advance()


@pytest.mark.parametrize("num_slices", [0, 1])
def test_one_that_is_abandoned_ends_at_once_and_leaves_no_thread(num_slices: int) -> None:
    seen: list[int] = []
    sliced = Sliced(counting(seen, 100))
    for _ in range(num_slices):
        sliced.advance()
    sliced.abandon()
    assert seen == list(range(num_slices))
    sliced._thread.join(10)
    assert not any(thread is sliced._thread for thread in threading.enumerate())


# -- breaks ----------------------------------------------------------------------------------------


class Parts:
    """A computation of parts that take their time by a clock of its own."""

    def __init__(self, *seconds: float) -> None:
        self.now = 0.0
        self.breaks = Breaks(lambda: self.now)
        self.sliced = Sliced(self._compute)
        self._seconds = seconds

    def _compute(self, pause: Callable[[], bool]) -> None:
        self.breaks.made_for(pause)
        for seconds in self._seconds:
            self.breaks.between()
            self.now += seconds

    def slices(self, limit_s: float) -> list[float]:
        """What each slice took."""
        taken, has_ended = [], False
        while not has_ended:
            begun = self.now
            self.breaks.begin(limit_s)
            has_ended = self.sliced.advance()
            taken.append(round(self.now - begun, 6))
        return taken


def test_a_slice_ends_before_the_part_that_would_take_it_past_its_limit() -> None:
    assert Parts(*[0.1] * 7).slices(0.35) == pytest.approx([0.3, 0.3, 0.1])
    assert Parts(*[0.1] * 7).slices(math.inf) == pytest.approx([0.7])


def test_parts_longer_than_the_limit_are_slices_of_their_own() -> None:
    assert Parts(0.5, 0.5, 0.5).slices(0.2) == pytest.approx([0.5, 0.5, 0.5])


def test_short_parts_between_do_not_hide_that_a_long_one_may_follow() -> None:
    assert max(Parts(*[0.3, 0.1] * 5).slices(0.35)) <= 0.35


def test_what_nobody_waits_for_ends_at_its_next_break() -> None:
    parts = Parts(*[0.1] * 9)
    parts.breaks.begin(0.2)
    assert not parts.sliced.advance()
    parts.sliced.abandon()
    assert parts.now == pytest.approx(0.2)
