"""Small clusters: two or three devices, a few models, some dozens of requests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from llmos.simulate.hardware import Hardware
from llmos.simulate.scenario import Scenario
from llmos.simulate.traces import Mix, synthetic_trace

TRACE = synthetic_trace(seed=1)
SMALL_MIX = Mix(num_models=3, burst_s=5.0, num_tenants=3)
TWO_PLACES = replace(Hardware(), memory_bytes=2_100_000_000)


@pytest.fixture
def make_scenario() -> Any:
    def make(**fields: Any) -> Scenario:
        known = {"num_nodes": 3, "num_requests": 60, "load": 1.0, "mix": SMALL_MIX}
        return Scenario(TRACE, **{"hardware": TWO_PLACES} | known | fields)

    return make
