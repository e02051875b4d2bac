"""Jobs of several devices: the memory of each is reserved, and given back whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.errors import OutOfMemoryError
from llmos.kernel.ledger import Ledger
from llmos.kernel.placing import Placing


def placing(*free: int, on_cpu: bool = False) -> tuple[Placing, list[Ledger]]:
    """Devices of 100 bytes each, so many of them free."""
    ledgers = [Ledger(100) for _ in free]
    for ledger, num_bytes in zip(ledgers, free, strict=True):
        ledger.reserve("model", 100 - num_bytes)
    names = {f"cuda:{number}": ledger for number, ledger in enumerate(ledgers)}
    return Placing(names, on_cpu=on_cpu), ledgers


def test_the_freest_devices_are_chosen() -> None:
    placed, ledgers = placing(90, 10, 60, 100)
    placed.reserve(1, 90)
    assert placed.spread(1, 3) == ("cuda:0", "cuda:3", "cuda:2")
    assert [ledger.reserved("job:1") for ledger in ledgers] == [30, None, 30, 30]
    placed.free(1)
    assert [ledger.reserved("job:1") for ledger in ledgers] == [None] * 4
    placed.reserve(1, 90)  # its worker goes on where it was
    assert [ledger.reserved("job:1") for ledger in ledgers] == [30, None, 30, 30]
    placed.forget(1)
    placed.reserve(1, 90)
    assert [ledger.reserved("job:1") for ledger in ledgers] == [90, None, None, None]


def test_as_many_as_have_room_and_else_the_first_alone() -> None:
    placed, _ = placing(90, 20, 45, 0)
    placed.reserve(1, 90)
    assert placed.spread(1, 4) == ("cuda:0", "cuda:2")
    placed, ledgers = placing(90, 20)
    placed.reserve(1, 90)
    assert placed.spread(1, 2) == ()
    assert [ledger.reserved("job:1") for ledger in ledgers] == [90, None]
    placed, _ = placing(100, 100)
    placed.reserve(1, 10)
    assert placed.spread(1, 1) == () == placed.spread(2, 2)


def test_parts_of_one_processor_are_one_device() -> None:
    placed, ledgers = placing(100, 100, on_cpu=True)
    placed.reserve(1, 50)
    assert placed.spread(1, 2) == ()
    assert ledgers[0].reserved("job:1") == 50


def test_what_one_device_refuses_none_keeps() -> None:
    placed, ledgers = placing(100, 100)
    placed.reserve(1, 80)
    placed.spread(1, 2)
    placed.free(1)
    ledgers[1].reserve("another", 90)
    with pytest.raises(OutOfMemoryError):
        placed.reserve(1, 80)
    assert [ledger.reserved("job:1") for ledger in ledgers] == [None, None]


@given(
    free=st.lists(st.integers(0, 100), min_size=1, max_size=6),
    num_bytes=st.integers(0, 100),
    count=st.integers(1, 8),
)
def test_no_more_than_is_free_and_all_of_it_back(
    free: list[int], num_bytes: int, count: int
) -> None:
    placed, ledgers = placing(*free)
    try:
        placed.reserve(7, num_bytes)
    except OutOfMemoryError:
        assert num_bytes > free[0]
        return
    names = placed.spread(7, count)
    assert len(set(names)) == len(names) <= min(count, len(free)) and len(names) != 1
    parts = [ledger.reserved("job:7") for ledger in ledgers]
    assert sum(part or 0 for part in parts) >= num_bytes
    assert sum(part is not None for part in parts) == max(1, len(names))
    placed.forget(7)
    assert [ledger.free_bytes for ledger in ledgers] == free
