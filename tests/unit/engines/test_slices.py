from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from llmos.engines.slices import Sliced


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
