"""Whose step comes next: rules one by one, then long runs with nobody left behind."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.engines.base import Urgency
from llmos.engines.fairness import (
    AGEING_S,
    FAIR_LEAD_MS,
    MAX_STALL_S,
    STARVING_S,
    Candidate,
    VirtualTimes,
    pick,
)

LATE_S, HORIZON_S = 0.05, 0.1


def candidate(
    key: str,
    priority: int = 1,
    *,
    slack_s: float = math.inf,
    waited_s: float = 0.0,
    class_waited_s: float = 0.0,
    virtual_ms: float = 0.0,
    model_ms: float = 0.0,
) -> Candidate:
    urgency = Urgency(slack_s, priority)
    return Candidate(key, urgency, waited_s, class_waited_s, virtual_ms, model_ms)


def test_a_better_class_goes_first_however_much_it_has_used() -> None:
    assert pick([candidate("a", 2), candidate("b", 0, virtual_ms=1e6)]) == "b"


def test_in_a_class_the_tenant_who_used_least_goes_first() -> None:
    assert pick([candidate("a", virtual_ms=5), candidate("b", virtual_ms=4)]) == "b"


def test_of_one_tenants_models_the_one_that_ran_least_goes_first() -> None:
    assert pick([candidate("a", model_ms=5), candidate("b", model_ms=4)]) == "b"


def test_a_late_work_goes_before_a_better_class() -> None:
    both = [candidate("a", 2, slack_s=LATE_S), candidate("b", 0, slack_s=1.0)]
    assert pick(both, HORIZON_S) == "a"


def test_of_late_works_the_better_class_and_then_the_later_goes_first() -> None:
    late = [candidate("a", 2, slack_s=0.01), candidate("b", 1, slack_s=0.09)]
    assert pick(late, HORIZON_S) == "b"
    later = [candidate("a", slack_s=0.09), candidate("b", slack_s=0.01, virtual_ms=9)]
    assert pick(later, HORIZON_S) == "b"


def test_deadlines_buy_no_more_than_a_fair_share() -> None:
    greedy = candidate("a", 2, slack_s=LATE_S, virtual_ms=FAIR_LEAD_MS + 1)
    assert pick([greedy, candidate("b", 0)], HORIZON_S) == "b"


def test_lateness_counts_no_more_for_a_model_that_had_more_than_its_tenants_others() -> None:
    greedy = candidate("a", slack_s=LATE_S, model_ms=FAIR_LEAD_MS + 1)
    assert pick([greedy, candidate("b")], HORIZON_S) == "b"


def test_who_waits_in_a_worse_class_does_not_keep_the_better_from_being_late() -> None:
    starved = candidate("c", 2)
    late = [candidate("a", 0, virtual_ms=9e6), candidate("b", 0, slack_s=0.01, virtual_ms=9e6)]
    assert pick([starved, *late], HORIZON_S) == "b"


def test_a_class_that_waited_long_enough_goes_before_everyone() -> None:
    late = candidate("b", 0, slack_s=-1.0)
    assert pick([candidate("a", 3, class_waited_s=3.9 * AGEING_S), late], HORIZON_S) == "b"
    assert pick([candidate("a", 3, class_waited_s=4 * AGEING_S), late], HORIZON_S) == "a"


def test_a_model_that_starves_goes_first_in_its_class_and_no_sooner() -> None:
    starved = candidate("a", 1, waited_s=STARVING_S, virtual_ms=1e9)
    assert pick([starved, candidate("b", 1)]) == "a"
    assert pick([starved, candidate("b", 0)]) == "b"


# -- virtual times ---------------------------------------------------------------------------------


def test_who_comes_back_from_idling_has_saved_nothing_up() -> None:
    times = VirtualTimes()
    times.activate({1: {"a", "b"}})
    times.activate({1: {"a"}})
    times.charge({"a": 1.0}, 500)
    times.activate({1: {"a", "b"}})
    assert (times.of("a"), times.of("b")) == (500, 500)


def test_a_new_tenant_starts_where_the_last_ones_stopped() -> None:
    times = VirtualTimes()
    times.activate({1: {"a"}})
    times.charge({"a": 1.0}, 500)
    times.activate({})
    times.activate({1: {"b"}})
    assert times.of("b") == 500


def test_a_tenant_alone_in_its_class_does_not_hold_the_others_class_back() -> None:
    times = VirtualTimes()
    times.activate({0: {"a"}, 2: {"idler"}})
    for _ in range(100):
        times.charge({"a": 1.0}, 10)
        times.activate({0: {"a"}, 2: {"idler"}})
    times.activate({0: {"a", "b"}, 2: {"idler"}})
    assert times.of("b") == times.of("a") == 1000
    assert times.of("idler") == 0


def test_idle_tenants_are_forgotten_those_furthest_behind_first() -> None:
    times = VirtualTimes(max_idle=100)
    times.activate({1: {"busy"}})
    for number in range(1000):
        times.charge({f"t{number}": 1.0}, number)
        times.activate({1: {"busy"}})
    assert len(times) <= 101
    assert times.of("t999") == 999
    assert "busy" in times.view()


# -- long runs -------------------------------------------------------------------------------------


@dataclass
class Load:
    """A model and what runs on it: one tenant's works of one class, for ever."""

    key: str
    tenant: str
    priority: int
    step_s: float
    slack_s: float = math.inf
    last: float = 0.0
    """When its last step ended."""
    used_s: float = 0.0
    longest_wait_s: float = 0.0


def simulate(loads: list[Load], num_steps: int) -> tuple[float, VirtualTimes]:
    """Step the models as the host does; return how long it took, and the tenants' times."""
    now, tenants, models = 0.0, VirtualTimes(), VirtualTimes()
    for _ in range(num_steps):
        groups: dict[int, set[str]] = {}
        for load in loads:
            groups.setdefault(load.priority, set()).add(load.tenant)
        tenants.activate(groups)
        models.activate({0: [load.key for load in loads]})
        candidates = [
            Candidate(
                load.key,
                Urgency(load.slack_s, load.priority, (load.tenant,)),
                now - load.last,
                now - max(other.last for other in loads if other.priority == load.priority),
                tenants.of(load.tenant),
                models.of(load.key),
            )
            for load in loads
        ]
        horizon_s = 2 * max(load.step_s for load in loads)
        picked = pick(candidates, horizon_s)
        (load,) = [load for load in loads if load.key == picked]
        load.longest_wait_s = max(load.longest_wait_s, now - load.last)
        now += load.step_s
        load.last = now
        load.used_s += load.step_s
        tenants.charge({load.tenant: 1.0}, load.step_s * 1000)
        models.charge({load.key: 1.0}, load.step_s * 1000)
    for load in loads:
        load.longest_wait_s = max(load.longest_wait_s, now - load.last)
    return now, tenants


step_times = st.floats(0.001, 0.3)


@st.composite
def any_loads(draw: st.DrawFn) -> list[Load]:
    return [
        Load(
            f"m{number}",
            draw(st.sampled_from("abc")),
            draw(st.integers(0, 3)),
            draw(step_times),
            draw(st.sampled_from([math.inf, 10.0, 0.01, -5.0])),
        )
        for number in range(draw(st.integers(2, 5)))
    ]


@given(any_loads())
@settings(max_examples=60, deadline=None)
def test_no_model_tenant_or_class_starves(loads: list[Load]) -> None:
    simulate(loads, 1000)
    round_s = sum(load.step_s for load in loads)
    for load in loads:
        for_class_s = (load.priority + 2) * AGEING_S + 2 * round_s
        peers = [other for other in loads if other.priority == load.priority]
        longest_s = 2 * STARVING_S + len(peers) * for_class_s
        assert load.longest_wait_s <= longest_s


@given(st.lists(step_times, min_size=2, max_size=5))
@settings(max_examples=40, deadline=None)
def test_tenants_of_equal_demand_get_equal_shares(steps_s: list[float]) -> None:
    loads = [Load(f"m{i}", f"t{i}", 1, step_s) for i, step_s in enumerate(steps_s)]
    simulate(loads, 2000)
    used = [load.used_s for load in loads]
    assert max(used) - min(used) <= 2 * max(steps_s) + 1e-6


@given(st.lists(step_times, min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_tenant_with_many_models_gets_no_more_than_one_with_one(steps_s: list[float]) -> None:
    many = [Load(f"m{i}", "many", 1, step_s) for i, step_s in enumerate(steps_s)]
    one = Load("one", "one", 1, 0.05)
    simulate([*many, one], 2000)
    theirs = sum(load.used_s for load in many)
    assert abs(theirs - one.used_s) <= 2 * max(*steps_s, one.step_s) + 1e-6
    used = [load.used_s for load in many]
    assert max(used) - min(used) <= 2 * max(steps_s) + 1e-6


def test_two_models_of_one_tenant_alternate_and_waste_no_step() -> None:
    loads = [Load("a", "t", 1, 0.05), Load("b", "t", 1, 0.05)]
    now, _ = simulate(loads, 100)
    assert math.isclose(now, 5.0)
    assert math.isclose(loads[0].used_s, loads[1].used_s)


def stream(key: str, slack_s: float, **fields: float) -> Candidate:
    one = candidate(key, slack_s=slack_s, **fields)  # type: ignore[arg-type]
    return replace(one, urgency=replace(one.urgency, stream_slack_s=slack_s))


def test_late_streams_go_before_works_that_wait_for_their_first_token() -> None:
    waiting = candidate("a", slack_s=-9.0)
    assert pick([waiting, stream("b", HORIZON_S / 2)], HORIZON_S) == "b"
    # Not before they are late: their model would have every step.
    assert pick([waiting, stream("b", HORIZON_S * 0.9)], HORIZON_S) == "a"


def test_a_stream_of_who_had_more_is_late_but_does_not_stand_still() -> None:
    waiting, lead = candidate("a", slack_s=-9.0), FAIR_LEAD_MS + 1
    for slack_s, picked in ((-0.1, "a"), (-MAX_STALL_S - 0.01, "b")):
        assert pick([waiting, stream("b", slack_s, virtual_ms=lead)], HORIZON_S) == picked
