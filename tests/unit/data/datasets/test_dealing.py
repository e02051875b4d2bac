"""Where rows go when a dataset is split or mixed: the right number of them, and none parted that
belong together.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.data.datasets import jobs
from llmos.data.datasets.dealing import KEYS, _ordered, limits_for
from llmos.data.datasets.mixing import rows_of_each
from llmos.errors import DataError, InvalidRequestError

NUMBERS = st.lists(st.integers(0, KEYS - 1), max_size=60)


@given(numbers=NUMBERS, parts=st.integers(1, 4), shares=st.lists(st.floats(0, 1), max_size=4))
def test_a_limit_has_as_many_keys_below_it_as_are_wanted(
    numbers: list[int], parts: int, shares: list[float]
) -> None:
    keys = [np.array(numbers[start::parts], np.uint64) for start in range(parts)]
    counts = [round(share * len(numbers)) for share in sorted(shares)]
    limits = limits_for(keys, counts)
    assert limits == sorted(limits)
    for limit, count in zip(limits, counts, strict=True):
        below = sum(number < limit for number in numbers)
        same = max((numbers.count(number) for number in numbers), default=0)
        assert abs(below - count) <= (same / 2 if same > 1 else 0)


@given(one=st.floats(allow_nan=False, allow_infinity=False), other=st.floats(-1e9, 1e9))
def test_keys_of_times_are_in_their_order(one: float, other: float) -> None:
    lower, higher = sorted((one, other))
    assert 0 <= _ordered(lower) <= _ordered(higher) < KEYS


def test_rows_of_a_mix_are_by_weight_and_none_twice_unless_told() -> None:
    held = {"a": 100, "b": 40}
    assert rows_of_each(held, {"a": 1, "b": 1}, None, repeat=False) == {"a": 40, "b": 40}
    assert rows_of_each(held, {"a": 0.7, "b": 0.3}, 100, repeat=False) == {"a": 70, "b": 30}
    assert rows_of_each(held, {"a": 1, "b": 1}, 300, repeat=True) == {"a": 150, "b": 150}
    with pytest.raises(DataError, match="b has 40 rows and 50 are wanted: ask for 80"):
        rows_of_each(held, {"a": 1, "b": 1}, 100, repeat=False)
    with pytest.raises(DataError, match="none would be of b"):
        rows_of_each(held, {"a": 1000, "b": 1}, 10, repeat=False)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"parts": {"a": 0.5, "b": 0.4}}, "1 together"),
        ({"parts": {"a": 1.0}}, "parts: Dictionary should have at least 2"),
        ({"parts": {"a": 0.5, "b": 0.5}, "by": "x", "time": "y"}, "either by group"),
        ({"parts": {"a": 0.5, "b/c d": 0.5}}, "name"),
        ({"parts": {"a": 0.5, "b": 0.5}, "wrong": 1}, "wrong"),
        ({"parts": {"a": 0.5, "b": 0.5}, "input": None}, "input"),
    ],
)
def test_a_wrong_request_says_what_is_wrong(params: dict[str, Any], said: str) -> None:
    told = {"ref": "r:1", "digest": "sha256:" + "0" * 64, "rows": 9, "license": "", "shards": []}
    with pytest.raises(InvalidRequestError, match=said):
        jobs.check_split({"input": "r", "datasets": {"input": told}} | params)
    with pytest.raises(InvalidRequestError, match="inputs"):
        jobs.check_mix({"name": "m", "inputs": {"r": 0}, "datasets": {"r": told}})


def test_memory_is_asked_for_by_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    kinds = {kind.name: kind for kind in jobs.llmos_job_kinds()}
    one = {"datasets": {"input": {"shards": ["x"]}}}
    many = {"datasets": {"input": {"shards": ["x"] * 100}}}
    estimate = kinds[jobs.RUN].estimate
    assert estimate(one) == jobs.JOB_BYTES + jobs.PROCESS_BYTES
    assert estimate(many) == jobs.JOB_BYTES + 8 * jobs.PROCESS_BYTES
    assert kinds[jobs.ADD].estimate({"files": {"a": 1, "b": 2}}) < estimate(many)
    assert kinds[jobs.ADD].estimate({"files": {"a": 1}, "bytes": 10**10}) == estimate(many)
    steps = [{"length": {}}, "whitespace", {"length": {"least": 3}}]
    assert kinds[jobs.RUN].subject({"pipeline": {"steps": steps}}) == "length whitespace"
