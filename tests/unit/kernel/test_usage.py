from __future__ import annotations

import pytest

from llmos.kernel.usage import HALF_LIFE_S, Usage


def test_use_fades_and_running_jobs_count(clock) -> None:
    usage = Usage(clock)
    usage.charge("a", 100.0)
    clock.now += HALF_LIFE_S
    usage.charge("a", 10.0)
    usage.charge("b", 1.0)
    seen = usage.with_running([("b", 2.0), ("b", 3.0), ("c", 4.0)])
    assert seen == pytest.approx({"a": 60.0, "b": 6.0, "c": 4.0})
