"""Where requests go under each policy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from llmos.simulate.baselines import PLACES
from llmos.simulate.clock import Events, picoseconds
from llmos.simulate.cluster import simulate
from llmos.simulate.device import Device
from llmos.simulate.placement import apportion, fill
from llmos.simulate.policies import POLICIES
from llmos.simulate.scenario import Scenario
from llmos.simulate.sequences import Sequence
from llmos.simulate.steering import Llmos
from llmos.simulate.traces import Mix, Request
from llmos.types import Priority


class Cluster:
    """Devices under one policy, in which requests come and time passes by hand."""

    def __init__(self, scenario: Scenario, name: str) -> None:
        self.events = Events()
        self.policy: Any = POLICIES[name](scenario, self.events)
        self.ended: list[Sequence] = []
        self.devices = [
            Device(n, scenario.hardware, self.events, self.policy.keeper, self._ended, 2**31)
            for n in range(scenario.num_nodes)
        ]
        self.policy.start(self.devices)
        self.now_ps = 0

    def _ended(self, device: Device, sequence: Sequence, now_ps: int) -> None:
        self.ended.append(sequence)
        self.policy.ended(device, sequence, now_ps)

    def ask(self, number: int, model: str, output_tokens: int = 5, prompt_tokens: int = 20) -> None:
        tokens = prompt_tokens, output_tokens
        one = Request(number, self.now_ps, model, "a", Priority.STANDARD, *tokens)
        self.policy.arrive(one, self.now_ps)

    def pass_s(self, seconds: float) -> None:
        end_ps = self.now_ps + picoseconds(seconds)
        while len(self.events) and self.events.next_at <= end_ps:
            self.now_ps, action = self.events.take()
            action(self.now_ps)
        self.now_ps = end_ps


def test_seats_are_apportioned_by_share_and_everyone_has_one() -> None:
    assert apportion({"a": 0.7, "b": 0.3, "c": 0.0}, 10) == {"a": 6, "b": 3, "c": 1}
    assert sum(apportion(Mix().popularity(), 97).values()) == 97


def test_devices_begin_with_different_models_by_popularity(make_scenario: Any) -> None:
    scenario = make_scenario(num_nodes=10)
    placed = fill(scenario.mix.popularity(), Cluster(scenario, "static").devices)
    assert all(len(set(models)) == len(models) == 2 for models in placed)
    counts = Counter(model for models in placed for model in models)
    assert counts["model-00"] > counts["model-02"] > 0


def test_a_static_partition_never_loads_anything(make_scenario: Any) -> None:
    report = simulate(make_scenario(), POLICIES["static"], "static").report
    assert report.loads == report.evictions == 0


def test_least_loaded_picks_the_device_with_the_fewest_requests(make_scenario: Any) -> None:
    cluster = Cluster(make_scenario(mix=Mix(num_models=1)), "least-loaded")
    for number in range(7):
        cluster.ask(number, "model-00", output_tokens=500)
    assert sorted(device.num_open for device in cluster.devices) == [2, 2, 3]


def test_fifo_lets_nobody_pass(make_scenario: Any) -> None:
    cluster = Cluster(make_scenario(num_nodes=1, mix=Mix(num_models=1)), "fifo")
    for number in range(PLACES + 5):
        cluster.ask(number, "model-00", output_tokens=5 + number)
    assert cluster.devices[0].num_open == PLACES
    cluster.pass_s(60.0)
    begun = sorted(cluster.ended, key=lambda one: (one.first_ps, one.request.number))
    assert [one.request.number for one in begun] == list(range(PLACES + 5))


def test_a_model_that_is_nowhere_in_memory_is_loaded_for_who_asks(make_scenario: Any) -> None:
    cluster = Cluster(make_scenario(num_nodes=3), "llmos")
    for device in cluster.devices:
        for key in device.resident():
            device.evict(key)
    cluster.ask(0, "model-02")
    cluster.pass_s(30.0)
    (one,) = cluster.ended
    assert one.first_ps > picoseconds(cluster.devices[0].hardware.load_s)


def test_a_burst_gets_more_replicas_and_gives_them_back(make_scenario: Any) -> None:
    mix = Mix(num_models=6, burst_share=0.0)
    cluster = Cluster(make_scenario(num_nodes=12, mix=mix), "llmos")
    policy: Llmos = cluster.policy
    counts, number = [len(policy.replicas_of("model-05"))], 0
    for second in range(120):
        for _ in range(7 if 5 <= second < 25 else 0):
            cluster.ask(number, "model-05", prompt_tokens=1000)
            number += 1
        cluster.pass_s(1.0)
        policy.tick(cluster.now_ps)
        counts.append(len(policy.replicas_of("model-05")))
    assert max(counts) >= 2 * counts[0]
    assert counts[-1] < max(counts)
    assert len(cluster.ended) == number


@pytest.mark.parametrize("name", POLICIES)
def test_requests_of_a_device_are_counted_until_they_end(make_scenario: Any, name: str) -> None:
    cluster = Cluster(make_scenario(), name)
    for number in range(9):
        cluster.ask(number, f"model-0{number % 3}")
    assert sum(device.num_open for device in cluster.devices) == 9
    cluster.pass_s(60.0)
    assert sum(device.num_open for device in cluster.devices) == 0
    assert len(cluster.ended) == 9
