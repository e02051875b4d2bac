"""Who waits is found in every order, as by looking at all of them, but without doing so."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from hypothesis import given
from hypothesis import strategies as st

from llmos.engines.native.sequences import Sequence
from llmos.engines.native.waiting import Waiting
from llmos.types import GenerateWork, Priority, SamplingParams

TARGET_S = 0.2


def sequence(
    arrival: int,
    priority: int = 1,
    tenant: str = "ann",
    submitted_s: float = 0.0,
    deadline_s: float | None = None,
    last_token_s: float | None = None,
) -> Sequence:
    work = GenerateWork(
        (1,), SamplingParams(), priority=Priority(priority), tenant=tenant, deadline_s=deadline_s
    )
    made = Sequence(str(arrival), work, arrival, submitted_s, b"")
    made.last_token_s = last_token_s
    return made


seconds = st.integers(0, 8).map(float)
sequences = st.tuples(
    st.integers(0, 3), st.sampled_from("abc"), seconds, st.none() | seconds, st.none() | seconds
)
changes = st.lists(
    st.tuples(sequences, st.sampled_from(["none", "leave", "promote"]), st.integers(0, 99)),
    min_size=1,
    max_size=30,
)


@given(changes, st.dictionaries(st.sampled_from("abc"), seconds), st.integers(1, 6), seconds)
def test_they_are_found_as_if_all_of_them_were_looked_at(
    changes: list[tuple[tuple[int, str, float, float | None, float | None], str, int]],
    virtual_times: dict[str, float],
    most: int,
    now: float,
) -> None:
    waiting = Waiting(TARGET_S)
    there: list[Sequence] = []
    for arrival, (fields, change, at) in enumerate(changes):
        there.append(sequence(arrival, *fields))
        waiting.add(there[-1])
        if change == "promote":
            waiting.promote(there[at % len(there)])
        elif change == "leave":
            waiting.remove(there.pop(at % len(there)))
    expected = []
    for priority in Priority:
        own = [one for one in there if one.work.priority == priority]
        own.sort(
            key=lambda one: (
                not one.is_promoted,
                virtual_times.get(one.work.tenant, 0.0),
                one.arrival,
            )
        )
        expected += own[:most]
        assert set(waiting.tenants(priority)) == {one.work.tenant for one in own}
        assert waiting.counts().get(priority, 0) == len(own)
    found = list(waiting.best(virtual_times, most))
    assert sorted(found, key=lambda one: one.work.priority) == expected
    late = waiting.expired(now)
    assert [one.deadline for one in late] == sorted(one.deadline for one in late)
    assert {one.id for one in late} == {one.id for one in there if one.deadline <= now}
    assert waiting.due == min((one.due(TARGET_S) for one in there), default=math.inf)
    assert len(waiting) == len(there)


class Counting(Mapping[str, float]):
    """Virtual times that count how often somebody's is asked for: once for each row ranked."""

    def __init__(self) -> None:
        self.num_asked = 0

    def __getitem__(self, tenant: str) -> float:
        self.num_asked += 1
        return float(len(tenant))

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_thousands_that_wait_are_not_looked_at_to_find_the_best() -> None:
    waiting = Waiting(TARGET_S)
    for arrival in range(4000):
        waiting.add(sequence(arrival, arrival % 2, "abc"[arrival % 3], deadline_s=1e6))
    virtual_times = Counting()
    found = [one.arrival for one in waiting.best(virtual_times, 8)]
    assert found == [*range(0, 16, 2), *range(1, 17, 2)]
    assert virtual_times.num_asked < 2 * (8 + 2 * 3)
