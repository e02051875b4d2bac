"""Records that too few others are like: counted as pyarrow counts them, whatever the shards and the
order, and none is left where they are dropped or have their fields left out.
"""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators.generalise import Generalise
from llmos.data.operators.k_anonymity import KAnonymity
from llmos.data.pipeline import comparing, grouping, keyfiles
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.shard import StepSpec
from llmos.data.pipeline.steps import Applied, apply
from llmos.errors import DataError, PipelineError

BY = ["age", "town"]
ROWS = st.lists(
    st.fixed_dictionaries(
        {"age": st.sampled_from([30, 40, None]), "town": st.sampled_from(["Ulm", "上海"])},
        optional={"ill": st.sampled_from(["flu", "感冒", "none"])},
    ),
    min_size=1,
    max_size=30,
).map(lambda rows: [{"age": 1, "town": "x", "ill": "y"}, *rows])


def applied(rows: list[dict[str, Any]], **options: Any) -> Applied:
    records = [Record(str(number), dict(row)) for number, row in enumerate(rows)]
    return apply([KAnonymity(fields=BY, **options)], records)


def small(rows: list[dict[str, Any]], k: int, diversity: int) -> set[int]:
    """The places of rows in groups that are too small, found one by one."""
    found = set()
    for place, row in enumerate(rows):
        alike = [one for one in rows if all(one.get(name) == row.get(name) for name in BY)]
        different = {one["ill"] for one in alike if one.get("ill") is not None}
        if len(alike) < k or len(different) < diversity:
            found.add(place)
    return found


@pytest.mark.parametrize("sensitive", [None, "ill"])
@given(rows=ROWS, k=st.integers(2, 4), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_what_is_left_is_k_anonymous_and_only_what_must_is_changed(
    sensitive: str | None, rows: list[dict[str, Any]], k: int, seed: int
) -> None:
    diversity = 0 if sensitive is None else 2
    wanted = small(rows, k, diversity)
    kept = {one.id for one in applied(rows, k=k, sensitive=sensitive).records}
    assert kept == {str(place) for place in range(len(rows))} - {str(place) for place in wanted}
    shuffled = rows[:]
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    shuffled = [rows[place] for place in order]
    again = applied(shuffled, k=k, sensitive=sensitive).records
    assert {str(order[int(one.id)]) for one in again} == kept
    blanked = applied(rows, k=k, sensitive=sensitive, action="suppress").records
    fields = [one.fields for one in blanked]
    assert not small(fields, k, diversity)
    for one in blanked:
        row = rows[int(one.id)]
        assert one.fields == (row | dict.fromkeys(BY) if int(one.id) in wanted else row)
    counted = applied(rows, k=k, sensitive=sensitive, action="report")
    assert [one.fields for one in counted.records] == rows and not counted.outcome.dropped


def test_what_would_be_left_out_of_too_few_goes() -> None:
    rows = [{"age": 30, "town": "Ulm"}] * 5 + [{"age": 70, "town": "Ulm"}]
    done = applied(rows, k=2, action="suppress")
    assert len(done.records) == 5
    assert done.outcome.dropped[0]["reason"] == "too few alike: 1"
    rows = [{"age": 30, "town": "Ulm", "ill": "flu"}] * 4
    done = applied(rows, k=2, sensitive="ill", action="suppress")
    assert done.tallies[0].dropped == {"too little difference among those alike": 4}


@pytest.mark.parametrize("at_once", [2**19, 40])
def test_counts_are_those_of_pyarrow_whatever_the_passes(
    at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyfiles, "KEYS_A_PASS", at_once)
    draw = random.Random(5)
    rows = [
        # One group has half of all rows and more different values than are told of one.
        {"age": 30, "town": "Ulm", "ill": str(number)}
        if number % 2
        else {"age": draw.randint(1, 9) * 10, "town": draw.choice("abcd"), "ill": draw.choice("xy")}
        for number in range(600)
    ]
    table = pa.Table.from_pylist(rows).group_by(BY)
    expected = table.aggregate([("ill", "count"), ("ill", "count_distinct")]).to_pylist()
    few = [one for one in expected if one["ill_count"] < 8 or one["ill_count_distinct"] < 2]
    options = {"fields": BY, "k": 8, "sensitive": "ill"}
    found = compared(tmp_path, rows, [0, 130, 130, 400, 600], options)
    counts = comparing.read_compared(found)
    assert counts == {
        "groups": len(expected),
        "smallest": min(one["ill_count"] for one in expected),
        "least_values": min(one["ill_count_distinct"] for one in expected),
        "small_groups": len(few),
        "small_rows": sum(one["ill_count"] for one in few),
        "small_values": 2,
    }
    assert 0 < len(few) < len(expected)
    smallest = grouping.read_smallest(found)
    told = {(*(rows[one.row][name] for name in BY), one.rows, one.values) for one in smallest}
    every = {(*(one[name] for name in (*BY, "ill_count", "ill_count_distinct")),) for one in few}
    assert told <= every and len(told) == min(grouping.SHOWN, len(few))
    assert [one.rows for one in smallest] == sorted(one["ill_count"] for one in few)[: len(told)]
    records = [Record(str(number), dict(row)) for number, row in enumerate(rows)]
    dropped = {row["id"] for row in apply([KAnonymity(**options)], records).outcome.dropped}
    starts = (0, 130, 130, 400)
    drops = [grouping.read_small(keyfiles.drops_file(found, place)) for place in range(4)]
    places = {str(start + row) for start, part in zip(starts, drops, strict=True) for row in part}
    assert places == dropped


def compared(
    folder: Path, rows: list[dict[str, Any]], ends: list[int], options: dict[str, Any]
) -> Path:
    """Compare rows in shards that end there; return the directory of what was found."""
    operator = KAnonymity(**options)
    shards = []
    for start, end in pairwise(ends):
        records = [Record("", row) for row in rows[start:end]]
        shards.append(folder / str(len(shards)))
        shards[-1].mkdir()
        keys, values = [*map(operator.keys, records)], [*map(operator.value, records)]
        grouping.write_groups(shards[-1], operator, keys, values, rows[start:end])
    step = StepSpec(1, "k_anonymity", options)
    out = folder / "out"
    comparing.run_compare(comparing.CompareTask([*map(str, shards)], step, 0, str(out)))
    return out


def test_many_different_values_of_one_group_are_told_up_to_a_bound(tmp_path: Path) -> None:
    rows = [{"age": 1, "town": "x", "ill": str(number)} for number in range(300)]
    options = {"fields": BY, "sensitive": "ill", "diversity": 100}
    found = compared(tmp_path, rows, [0, 150, 300], options)
    counts = comparing.read_compared(found)
    assert (counts["least_values"], counts["small_groups"]) == (100, 0)


def test_a_field_that_nobody_has_is_an_error() -> None:
    with pytest.raises(DataError, match="no record has anything in 'town'"):
        applied([{"age": 30, "city": "Ulm"}] * 9)
    assert applied([]).records == []


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("k_anonymity", {"fields": []}, "at least 1 item"),
        ("k_anonymity", {"fields": ["a", "a"]}, "named twice"),
        ("k_anonymity", {"fields": ["a"], "sensitive": "a"}, "named twice"),
        ("k_anonymity", {"fields": ["a"], "k": 1}, "greater than or equal to 2"),
        ("generalise", {}, "set one of width, keep and date"),
        ("generalise", {"width": 5.0, "keep": 1}, "set one of width, keep and date"),
    ],
)
def test_a_wrong_option_is_told(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        make_operator(name, options, 0)


@pytest.mark.parametrize(
    ("options", "value", "wanted"),
    [
        ({"width": 10}, 39, "30 to 39"),
        ({"width": 10}, " 40 ", "40 to 49"),
        ({"width": 10}, "３７", "30 to 39"),
        ({"width": 1}, 3, "3"),
        ({"width": 0.1}, 0.3, "0.3 to below 0.4"),
        ({"width": 5}, 3.2, "0 to below 5"),
        ({"width": 5}, -0.5, "-5 to below 0"),
        ({"keep": 0}, "Ulm", "***"),
        ({"keep": 1}, 4711, "4***"),
        ({"date": "year"}, "1990-05-17T10:00:00Z", "1990"),
        ({"date": "month"}, "1990.5.17", "1990-05"),
        ({"date": "month"}, "1990-05", "1990-05"),
        ({"date": "year"}, 1990, "1990"),
        ({"width": 10}, "forty", None),
        ({"width": 10}, "1e999999999", None),
        ({"width": 10}, float("nan"), None),
        ({"width": 10}, True, None),
        ({"date": "month"}, "1990", None),
        ({"date": "year"}, "17.05.1990", None),
        ({"keep": 1}, ["a"], None),
    ],
)
def test_values_become_coarser_or_are_refused(
    options: dict[str, Any], value: Any, wanted: str | None
) -> None:
    if wanted is None:
        with pytest.raises(DataError):
            Generalise(**options).coarser(value)
    else:
        assert Generalise(**options).coarser(value) == wanted


@given(number=st.integers(-(10**9), 10**9), width=st.integers(2, 10**6))
@settings(max_examples=100, deadline=None)
def test_a_number_lies_in_its_range_and_ranges_do_not_meet(number: int, width: int) -> None:
    low, high = map(int, Generalise(width=width).coarser(number).split(" to "))
    assert low <= number <= high == low + width - 1 and low % width == 0
