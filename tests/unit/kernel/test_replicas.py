"""Replicas follow load: up at once, down after a while, and not to and fro."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.kernel.replicas import (
    Change,
    DeviceRoom,
    Peak,
    Replicate,
    Retire,
    ServedModel,
    State,
    replicas,
)

TARGET_S, SETTLE_S, CALM_S = 0.5, 2.0, 30.0
NUM_BYTES = 100


def model(key: str = "m", count: int = 4, **fields: Any) -> ServedModel:
    devices = tuple(f"d{number:03}" for number in range(count))
    known = {"queue_s": 0.0, "peak_queue_s": 0.0, "peak_load": 0.0, "changed_at": -1000.0}
    return ServedModel(key, NUM_BYTES, devices, **known | fields)


def devices(count: int = 40, **fields: Any) -> tuple[DeviceRoom, ...]:
    known = {"room_bytes": NUM_BYTES, "queue_s": 0.0, "load": 0.1}
    return tuple(DeviceRoom(f"d{number:03}", **known | fields) for number in range(count))


def decided(*models: ServedModel, room: tuple[DeviceRoom, ...] | None = None) -> list[Change]:
    found = devices() if room is None else room
    return replicas(State(0.0, TARGET_S, SETTLE_S, CALM_S, models, found))


def more(changes: list[Change]) -> int:
    return sum(isinstance(change, Replicate) for change in changes)


def fewer(changes: list[Change]) -> int:
    return sum(isinstance(change, Retire) for change in changes)


def test_a_model_that_waits_too_long_gets_as_many_more_as_it_waits_too_long() -> None:
    assert more(decided(model(queue_s=0.49))) == 0
    assert more(decided(model(queue_s=0.6))) == 1
    assert more(decided(model(queue_s=0.75))) == 2
    assert more(decided(model(queue_s=50.0))) == 4, "twice as many at most"


def test_a_model_gets_no_more_while_the_last_ones_are_not_felt_yet() -> None:
    assert more(decided(model(queue_s=5.0, changed_at=-1.0))) == 0
    assert more(decided(model(queue_s=5.0, changed_at=-2.0))) == 4


def test_a_calm_model_loses_what_it_can_do_without_a_quarter_at_a_time() -> None:
    assert fewer(decided(model(count=8, peak_load=0.5))) == 2
    assert fewer(decided(model(count=8, peak_load=4.3))) == 0, "7 at 60% are 4.2"
    assert fewer(decided(model(count=8, peak_load=4.1))) == 1
    assert fewer(decided(model(count=2))) == 1
    assert fewer(decided(model(count=1))) == 0


def test_a_model_that_was_not_calm_for_long_enough_loses_nothing() -> None:
    assert fewer(decided(model(count=8, changed_at=-29.0))) == 0
    assert fewer(decided(model(count=8, peak_queue_s=0.2))) == 0


def test_bounds_hold_whatever_the_load() -> None:
    assert more(decided(model(count=1, least=3))) == 2
    assert fewer(decided(model(count=4, least=4))) == 0
    assert more(decided(model(count=4, queue_s=9.0, most=5))) == 1
    assert fewer(decided(model(count=4, queue_s=9.0, most=2))) == 2


def test_the_least_loaded_devices_with_room_are_taken() -> None:
    room = (
        DeviceRoom("busy", NUM_BYTES, 0.4, 0.5),
        DeviceRoom("full", NUM_BYTES - 1, 0.0, 0.0),
        DeviceRoom("quiet", NUM_BYTES, 0.0, 0.2),
        DeviceRoom("overworked", NUM_BYTES, TARGET_S, 0.1),
    )
    changes = decided(model(queue_s=9.0), room=room)
    assert changes == [Replicate("m", "quiet"), Replicate("m", "busy")]


def test_a_device_that_still_holds_the_model_is_taken_first() -> None:
    room = (
        DeviceRoom("quiet", NUM_BYTES, 0.0, 0.0),
        DeviceRoom("holds", 0, 0.1, 0.8, frozenset({"m"})),
    )
    assert decided(model(count=1, queue_s=0.6), room=room) == [Replicate("m", "holds")]


def test_where_places_are_few_who_waits_longest_goes_first() -> None:
    one = model("a", count=1, queue_s=0.9)
    other = replace(model("b", count=1, queue_s=2.0), devices=("d001",))
    changes = decided(one, other, room=(DeviceRoom("free", NUM_BYTES, 0.0, 0.0),))
    assert changes == [Replicate("b", "free")]


def test_the_busiest_devices_are_given_up_first() -> None:
    loads = {"d000": 0.1, "d001": 0.7, "d002": 0.3}
    room = tuple(DeviceRoom(key, 0, 0.0, load) for key, load in loads.items())
    assert decided(model(count=3), room=room) == [Retire("m", "d001")]


@given(
    st.lists(
        st.tuples(st.integers(1, 9), st.floats(0, 20), st.floats(0, 10), st.floats(-60, 0)),
        min_size=1,
        max_size=5,
    ),
    st.lists(
        st.tuples(st.integers(0, 2 * NUM_BYTES), st.floats(0, 1), st.floats(0, 1)), max_size=20
    ),
)
def test_no_decision_goes_where_it_cannot(
    drawn: list[tuple[int, float, float, float]], rooms: list[tuple[int, float, float]]
) -> None:
    models = tuple(
        model(f"m{n}", count, queue_s=queue_s, peak_queue_s=queue_s, peak_load=load, changed_at=at)
        for n, (count, queue_s, load, at) in enumerate(drawn)
    )
    room = tuple(DeviceRoom(f"d{n:03}", *values) for n, values in enumerate(rooms))
    changes = decided(*models, room=room)
    assert changes == decided(*models, room=room), "the same state, the same decision"
    placed = [change.device for change in changes if isinstance(change, Replicate)]
    assert len(placed) == len(set(placed)), "a device takes one replica at a time"
    for served in models:
        own = [change for change in changes if change.key == served.key]
        gained = {change.device for change in own if isinstance(change, Replicate)}
        lost = {change.device for change in own if isinstance(change, Retire)}
        assert not (gained and lost)
        assert not gained & set(served.devices)
        assert lost <= set(served.devices)
        assert len(served.devices) - len(lost) >= 1
        assert all(one.room_bytes >= NUM_BYTES for one in room if one.key in gained)
        assert all(one.queue_s < TARGET_S for one in room if one.key in gained)


ROOM = devices(150)


@dataclass
class Fluid:
    """One model whose requests are a stream of work: replicas drain what has come."""

    load: float
    count: int = 2
    backlog: float = 0.0
    now: float = 0.0
    changed_at: float = -math.inf
    history: list[int] = field(default_factory=list)
    queue_peak: Peak = field(default_factory=lambda: Peak(CALM_S))
    load_peak: Peak = field(default_factory=lambda: Peak(CALM_S))

    def pass_s(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            work = self.backlog + self.load
            done = min(work, self.count)
            self.backlog = work - done
            queue_s = self.backlog / self.count
            served = model(
                count=self.count,
                queue_s=queue_s,
                peak_queue_s=self.queue_peak.note(self.now, queue_s),
                peak_load=self.load_peak.note(self.now, done),
                changed_at=self.changed_at,
            )
            state = State(self.now, TARGET_S, SETTLE_S, CALM_S, (served,), ROOM)
            changes = replicas(state)
            self.count += more(changes) - fewer(changes)
            self.changed_at = self.now if changes else self.changed_at
            self.history.append(self.count)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 240), st.integers(1, 80))
def test_a_constant_load_comes_to_rest_and_moves_nothing(quarters: int, count: int) -> None:
    load = quarters / 4
    stream = Fluid(load, count)
    stream.pass_s(900)
    stream.history.clear()
    stream.pass_s(300)
    assert len(set(stream.history)) == 1
    assert load <= stream.count <= max(1, count, 4 * load + 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(2, 10))
def test_a_step_up_is_followed_within_a_doubling_each_settling_time(least: int, times: int) -> None:
    stream = Fluid(0.4 * least, least)
    stream.pass_s(60)
    before = stream.count
    stream.load = float(before * times)
    num_doublings = math.ceil(math.log2(times))
    stream.pass_s(round((num_doublings + 1) * (SETTLE_S + 1)) + 1)
    assert stream.count >= before * times


def test_a_step_down_is_followed_by_a_quarter_each_calm_time() -> None:
    stream = Fluid(30.0, 60)
    stream.pass_s(120)
    before = stream.count
    stream.load = 3.0
    num_quarters = math.ceil(math.log(before / 6.0) / math.log(1 / 0.75)) + 3
    stream.pass_s(round((num_quarters + 1) * (CALM_S + 1)))
    assert stream.count <= 7


def test_a_peak_is_the_highest_of_its_time() -> None:
    peak = Peak(10.0)
    assert [peak.note(now, value) for now, value in ((0, 1.0), (1, 5.0), (4, 2.0), (8, 3.0))] == [
        1.0,
        5.0,
        5.0,
        5.0,
    ]
    assert peak.note(12, 0.0) == 3.0
    assert peak.note(30, 0.5) == 0.5


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0, 9)), min_size=1, max_size=40))
def test_a_peak_agrees_with_looking_at_all_values(steps: list[tuple[float, float]]) -> None:
    peak, now, seen = Peak(7.0), 0.0, list[tuple[float, float]]()
    for gap, value in steps:
        now += gap
        seen.append((now, value))
        assert peak.note(now, value) == max(v for at, v in seen if at >= now - 7.0)
