"""Whole simulations, small: nothing is lost, nothing overflows, and nothing hangs on chance."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.kernel.ledger import Ledger
from llmos.simulate.cluster import Outcome, simulate
from llmos.simulate.policies import POLICIES
from llmos.simulate.scenario import Scenario
from llmos.simulate.traces import Mix

TIGHT_KV = 3200 * 12_288
"""Two of the trace's longest requests do not fit."""


def run(scenario: Scenario, policy: str, **options: Any) -> Outcome:
    return simulate(scenario, POLICIES[policy], policy, **options)


def tight(scenario: Scenario) -> Scenario:
    hardware = scenario.hardware
    memory_bytes = 2 * (hardware.weights_bytes + TIGHT_KV)
    tight_hardware = replace(hardware, kv_bytes=TIGHT_KV, memory_bytes=memory_bytes)
    return replace(scenario, hardware=tight_hardware)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("is_tight", [False, True])
def test_runs_taken_at_once_give_exactly_what_single_steps_give(
    make_scenario: Any, policy: str, is_tight: bool
) -> None:
    scenario = make_scenario(load=1.6, seed=2 + is_tight)
    scenario = tight(scenario) if is_tight else scenario
    at_once, step_by_step = run(scenario, policy), run(scenario, policy, max_run=1)
    assert at_once.report.as_json() == step_by_step.report.as_json()
    assert at_once.work.plans < step_by_step.work.plans / 2
    assert asdict(at_once.work)["busy_s"] == asdict(step_by_step.work)["busy_s"]


def test_memory_that_is_short_has_rows_give_way(make_scenario: Any) -> None:
    """Or the test above would not be about that."""
    assert run(tight(make_scenario(load=1.6, seed=3)), "llmos").report.preemptions > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_ends_or_is_counted_as_unserved(make_scenario: Any, policy: str) -> None:
    report = run(make_scenario(load=0.8), policy).report
    assert report.requests == 60
    assert report.served == 60
    assert report.unserved == 0


def test_requests_that_cannot_be_good_any_more_are_counted_as_unserved(make_scenario: Any) -> None:
    targets = replace(make_scenario().targets, answer_s=0.5)
    report = run(make_scenario(load=20.0, targets=targets), "fifo").report
    assert report.unserved > 0
    assert report.served + report.unserved == report.requests


def test_a_request_that_no_cache_can_hold_is_unserved_and_holds_nobody_up(
    make_scenario: Any,
) -> None:
    scenario = make_scenario(load=0.5)
    small = replace(scenario.hardware, kv_bytes=1000 * 12_288)
    report = run(replace(scenario, hardware=small), "llmos").report
    assert 0 < report.unserved < report.requests / 2


@pytest.mark.parametrize("policy", POLICIES)
def test_no_device_gives_out_more_memory_than_it_has(
    make_scenario: Any, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []
    reserve = Ledger.reserve

    def watched(self: Ledger, key: str, num_bytes: int) -> None:
        reserve(self, key, num_bytes)
        seen.append(self.reserved_bytes / self.capacity_bytes)

    monkeypatch.setattr(Ledger, "reserve", watched)
    run(make_scenario(mix=Mix(num_models=3, burst_s=2.0, burst_share=0.6)), policy)
    assert 0.9 < max(seen) <= 1.0


def test_models_are_swapped_where_not_all_fit(make_scenario: Any) -> None:
    mix = Mix(num_models=6, burst_s=5.0, burst_share=0.7)
    scenario = make_scenario(mix=mix, num_nodes=6, num_requests=150)
    report = run(scenario, "llmos").report
    assert report.loads > 0
    assert report.evictions > 0


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_gives_the_same_report_to_the_last_digit(
    make_scenario: Any, policy: str
) -> None:
    first, again = (run(make_scenario(seed=5), policy).report.as_json() for _ in range(2))
    assert first == again
    other = run(make_scenario(seed=6), policy).report.as_json()
    assert first["digest"] != other["digest"]


def test_an_idle_cluster_meets_every_target_whatever_the_policy(make_scenario: Any) -> None:
    for policy in POLICIES:
        assert run(make_scenario(load=0.02), policy).report.good_share == 1.0


def test_who_sits_and_waits_is_served_before_batch_work(make_scenario: Any) -> None:
    good = run(make_scenario(load=1.6, num_requests=150), "llmos").report.good_by_class
    first_come = run(make_scenario(load=1.6, num_requests=150), "fifo").report.good_by_class
    assert good["interactive"] > first_come["interactive"]


def test_energy_is_idle_and_busy_time(make_scenario: Any) -> None:
    scenario = make_scenario(load=0.5)
    outcome = run(scenario, "llmos")
    hardware, work = scenario.hardware, outcome.work
    joules = 3 * work.simulated_s * hardware.idle_watts
    joules += work.busy_s * (hardware.busy_watts - hardware.idle_watts)
    assert outcome.report.energy_kwh == pytest.approx(joules / 3.6e6)
    assert 0.0 < work.busy_s < 3 * work.simulated_s


def test_progress_is_told_from_first_to_last(make_scenario: Any) -> None:
    told: list[tuple[int, int]] = []
    run(make_scenario(), "static", on_progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 60)
    assert told[-1] == (60, 60)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"num_nodes": 0}, "nodes"),
        ({"num_requests": 0}, "requests"),
        ({"load": 0.0}, "load"),
        ({"load": float("nan")}, "load"),
        ({"rate_per_s": float("inf")}, "rate"),
        ({"rate_per_s": -1.0}, "rate"),
        ({"num_nodes": 2}, "models"),
        ({"mix": Mix(num_models=0)}, "models"),
    ],
)
def test_a_cluster_that_cannot_be_is_refused(
    make_scenario: Any, fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        make_scenario(**fields)
    assert caught.value.param == param
