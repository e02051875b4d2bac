"""Simulated time: exact, and in order."""

from __future__ import annotations

from llmos.simulate.clock import Events, picoseconds, seconds


def test_seconds_survive_being_counted() -> None:
    assert seconds(picoseconds(0.25)) == 0.25
    assert picoseconds(1e-12) == 1


def test_what_happens_at_one_time_goes_by_rank_and_then_as_it_was_added() -> None:
    events, found = Events(), list[str]()
    for at, rank, name in ((5, 2, "c"), (5, 1, "b"), (5, 2, "d"), (1, 9, "a"), (7, 0, "e")):
        events.add(at, rank, lambda _, name=name: found.append(name))  # type: ignore[misc]
    assert events.next_at == 1
    while len(events):
        at, action = events.take()
        action(at)
    assert "".join(found) == "abcde"
