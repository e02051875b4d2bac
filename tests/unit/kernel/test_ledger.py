from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.errors import OutOfMemoryError
from llmos.kernel.ledger import Ledger, format_bytes, parking_bytes, shares

GB = 10**9


def test_reservations_are_taken_corrected_and_given_back() -> None:
    ledger = Ledger(100)
    ledger.reserve("a", 60)
    assert (ledger.free_bytes, ledger.reserved_bytes) == (40, 60)
    ledger.correct("a", 100)
    assert ledger.free_bytes == 0
    ledger.correct("a", 10)
    ledger.reserve("b", 90)
    assert ledger.reservations() == {"a": 10, "b": 90}
    assert (ledger.reserved("a"), ledger.reserved("c")) == (10, None)
    ledger.release("a")
    ledger.release("a")
    assert ledger.free_bytes == 10


def test_what_does_not_fit_changes_nothing_and_says_how_much_is_free() -> None:
    ledger = Ledger(5_000_000)
    ledger.reserve("a", 2_000_000)
    with pytest.raises(OutOfMemoryError, match=r"b needs 3\.5 MB of memory and 3\.0 MB of 5\.0 MB"):
        ledger.reserve("b", 3_500_000)
    with pytest.raises(OutOfMemoryError):
        ledger.correct("a", 5_000_001)
    assert ledger.reservations() == {"a": 2_000_000}


def test_mistakes_of_the_caller_are_errors() -> None:
    ledger = Ledger(100)
    ledger.reserve("a", 1)
    for mistake in (
        lambda: ledger.reserve("a", 1),
        lambda: ledger.reserve("b", -1),
        lambda: ledger.correct("a", -1),
    ):
        with pytest.raises(ValueError, match="cannot reserve"):
            mistake()
    with pytest.raises(KeyError):
        ledger.correct("b", 1)


operations = st.tuples(
    st.sampled_from(["reserve", "correct", "release"]), st.sampled_from("abcd"), st.integers(0, 80)
)


@settings(deadline=None)
@given(st.lists(operations, max_size=40))
def test_it_is_never_over_committed(steps: list[tuple[str, str, int]]) -> None:
    ledger = Ledger(100)
    for operation, key, num_bytes in steps:
        with contextlib.suppress(OutOfMemoryError, ValueError, KeyError):
            if operation == "release":
                ledger.release(key)
            else:
                getattr(ledger, operation)(key, num_bytes)
        assert 0 <= ledger.reserved_bytes <= 100
        assert ledger.free_bytes == 100 - ledger.reserved_bytes


@pytest.mark.parametrize(
    ("set_bytes", "num_engines", "device_bytes", "expected"),
    [
        (0, 1, None, (GB * 31, GB)),  # 80% of what the host has free, a 32nd of it for parking
        (0, 2, None, (GB * 31 // 2, GB // 2)),
        (8 * GB, 2, None, (GB * 31 // 8, GB // 8)),
        (0, 1, 20 * GB, (16 * GB, GB)),
        (0, 2, 20 * GB, (16 * GB, GB // 2)),  # a device each, but one host
        (8 * GB, 2, 20 * GB, (4 * GB, GB // 2)),
    ],
)
def test_engines_get_most_of_the_memory_that_they_compute_in(
    set_bytes: int, num_engines: int, device_bytes: int | None, expected: tuple[int, int]
) -> None:
    assert shares(set_bytes, num_engines, 40 * GB, device_bytes) == expected


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (25_000_000, "25.0 MB"), (1.5e12, "1.5 TB")],
)
def test_sizes_are_readable(num_bytes: int, text: str) -> None:
    assert format_bytes(num_bytes) == text


@pytest.mark.parametrize(
    ("capacity_bytes", "expected"), [(32 * 10**9, 10**9), (32 * 2**20, 2**20), (2**24, 0), (0, 0)]
)
def test_a_share_of_the_memory_is_set_aside_where_it_is_worth_it(
    capacity_bytes: int, expected: int
) -> None:
    assert parking_bytes(capacity_bytes) == expected
