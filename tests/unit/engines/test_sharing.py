"""Tenants and models share a device: nobody starves, nobody's stream stands still."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.engines.native.test_engine import prompt_of, work
from tests.unit.engines.simulated import COST, Clock, make_engine

from llmos.engines.turns import HostedModel, Turns
from llmos.types import GenerateWork, Priority, TokensOut


class Device:
    """Models that take turns on one simulated clock."""

    def __init__(self, *keys: str, **options: Any) -> None:
        self.clock = Clock()
        self.turns = Turns(self.clock)
        self.models: dict[str, HostedModel] = {}
        for key in keys:
            engine, runner = make_engine(prior=COST, speculates=False, **options)
            runner.checks, runner.clock, engine._clock = False, self.clock, self.clock
            self.models[key] = HostedModel(engine)

    def submit(self, key: str, name: str, given: GenerateWork) -> None:
        self.models[key].engine.submit(name, given)
        self.models[key].add(name, given, self.clock())

    def step(self) -> list[tuple[str, TokensOut]]:
        """Return what the next step reports."""
        key = self.turns.next(self.models)
        if key is None:
            return []
        outs = []
        for name, out in self.turns.step(key, self.models[key]):
            assert isinstance(out, TokensOut)
            if out.finish_reason:
                self.models[key].remove(name)
            outs.append((name, out))
        return outs


# -- tenants of a class ----------------------------------------------------------------------------


def waits_of(
    device: Device, priority: Priority, greedy: int, modest: int, max_tokens: int
) -> tuple[dict[str, float], int]:
    """One tenant has all rows for good when others come; return how long each was without a
    token at most, and how many rows gave way."""
    for number in range(greedy):
        given = work(prompt_of(20, number), 10**6, tenant="greedy", priority=priority)
        device.submit("m", f"greedy-{number}", given)
    for _ in range(20):
        device.step()
    begun, tenants, count = device.clock(), [f"modest{i}" for i in range(modest)], 0
    last = dict.fromkeys(["greedy", *tenants], begun)
    waits = dict.fromkeys(last, 0.0)
    has_row: set[str] = set()
    while device.clock() < begun + 60:
        for tenant in tenants:
            if tenant not in has_row:
                has_row.add(tenant)
                given = work(prompt_of(30, count), max_tokens, tenant=tenant, priority=priority)
                device.submit("m", f"{tenant}-{count}", given)
                count += 1
        for name, out in device.step():
            tenant = name.partition("-")[0]
            if out.finish_reason:
                has_row.discard(tenant)
            waits[tenant] = max(waits[tenant], device.clock() - last[tenant])
            last[tenant] = device.clock()
    for tenant, at in last.items():
        waits[tenant] = max(waits[tenant], device.clock() - at)
    return waits, sum(device.models["m"].engine.stats().preemptions)  # type: ignore[union-attr]


@settings(max_examples=12, deadline=None)
@given(
    priority=st.sampled_from(list(Priority)),
    max_rows=st.integers(1, 8),
    spare_blocks=st.integers(-40, 200),
    modest=st.integers(1, 3),
    max_tokens=st.sampled_from([5, 200, 10**6]),
)
def test_no_tenant_starves_behind_rows_of_its_class_that_never_end(
    priority: Priority, max_rows: int, spare_blocks: int, modest: int, max_tokens: int
) -> None:
    # Rows end at 4000 tokens: 250 blocks of 16.
    device = Device("m", num_blocks=300 + spare_blocks, max_tokens=4000, block_size=16)
    device.models["m"].engine._max_rows = max_rows  # type: ignore[attr-defined]
    waits, preemptions = waits_of(device, priority, max_rows, modest, max_tokens)
    # Each is at most a lead of 1 s behind the others before its turn comes, and stays as long.
    assert max(waits.values()) < 4.0 * (modest + 1), waits
    assert preemptions < 60 * 2


def test_two_tenants_do_not_thrash_for_one_row() -> None:
    device = Device("m", num_blocks=600, max_tokens=4000, block_size=16, max_rows=1)
    waits, preemptions = waits_of(device, Priority.STANDARD, 1, 1, 10**6)
    assert preemptions <= 60 / 1.5
    assert max(waits.values()) <= 3.0


# -- streams beside other models -------------------------------------------------------------------


def gaps_ms(device: Device, num_tokens: int = 400) -> Any:
    """Return the times between the tokens of row "a" until it ends."""
    gaps, last = [], None
    for _ in range(20_000):
        for name, out in device.step():
            if name == "a":
                if last is not None:
                    gaps.append((device.clock() - last) * 1000)
                last = device.clock()
                if out.finish_reason:
                    assert len(gaps) >= num_tokens - 2
                    return np.array(gaps)
    raise AssertionError("the stream does not end")


def test_a_stream_keeps_its_pace_beside_the_prompts_of_another_model() -> None:
    for priority in (Priority.INTERACTIVE, Priority.STANDARD):
        device = Device("A", "B", num_blocks=20_000, max_tokens=40_000, block_size=16)
        device.submit("A", "a", work(prompt_of(50), 400, priority=priority, tenant="a"))
        for number in range(120):
            given = work(prompt_of(600, number), 1, priority=priority, tenant="b")
            device.submit("B", f"b{number}", given)
        gaps = gaps_ms(device)
        assert np.percentile(gaps, 99) <= 200
        assert gaps.max() <= 500


def test_a_stream_whose_tenant_had_more_than_others_does_not_stand_still() -> None:
    device = Device("A", "B", "C", num_blocks=20_000, max_tokens=40_000, block_size=16)
    device.submit("A", "a", work(prompt_of(50), 400, priority=Priority.INTERACTIVE, tenant="a"))
    for key in "BC":
        for number in range(60):
            given = work(prompt_of(600, number), 1, priority=Priority.INTERACTIVE, tenant=key)
            device.submit(key, f"{key}{number}", given)
    device.step()
    device.turns._tenants.charge({"a": 1.0}, 10_000)
    device.turns._models.charge({"A": 1.0}, 10_000)
    assert gaps_ms(device).max() <= 500
