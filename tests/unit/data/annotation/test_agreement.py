"""Agreement: against published examples worked by hand, and against the package `krippendorff`."""

from __future__ import annotations

import math
from typing import Any, get_args

import krippendorff
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.annotation.agreement import (
    Level,
    cohen_kappa,
    fleiss_kappa,
    krippendorff_alpha,
    report,
    span_f1,
)
from llmos.data.annotation.scheme import scheme_of

OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
"""Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, example C."""
DIAGNOSES = (
    (0, 0, 0, 0, 14),
    (0, 2, 6, 4, 2),
    (0, 0, 3, 5, 6),
    (0, 3, 9, 2, 0),
    (2, 2, 8, 1, 1),
    (7, 7, 0, 0, 0),
    (3, 2, 6, 3, 0),
    (2, 5, 3, 2, 2),
    (6, 5, 2, 1, 0),
    (0, 2, 2, 3, 7),
)
"""How often ten items got each of five labels by 14 raters: en.wikipedia.org/wiki/Fleiss_kappa."""


def items(observers: Any) -> list[list[int]]:
    return [[value for value in unit if value is not None] for unit in zip(*observers, strict=True)]


@pytest.mark.parametrize(
    ("level", "alpha"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_krippendorffs_own_example(level: Level, alpha: float) -> None:
    found = krippendorff_alpha(items(OBSERVERS), level)
    assert found is not None and round(found, 3) == alpha


def test_fleiss_kappa_of_fourteen_raters() -> None:
    labels = [
        [label for label, count in enumerate(counts) for _ in range(count)] for counts in DIAGNOSES
    ]
    found = fleiss_kappa(labels)
    assert found is not None and round(found, 3) == 0.210
    with pytest.raises(ValueError, match="the same number"):
        fleiss_kappa([[1, 2], [1, 2, 3]])


def test_cohens_kappa_of_fifty_proposals() -> None:
    """20 both for, 15 both against, 5 and 10 apart: p_o 0.7, p_e 0.5 (Cohen's kappa, Wikipedia)."""
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    assert cohen_kappa(pairs) == pytest.approx(0.4)


def test_of_two_raters_without_gaps_fleiss_is_scotts_pi() -> None:
    pairs = [("y", "y")] * 20 + [("n", "n")] * 15 + [("y", "n")] * 5 + [("n", "y")] * 10
    share = (20 * 2 + 15) / 100
    chance = share**2 + (1 - share) ** 2
    assert fleiss_kappa(pairs) == pytest.approx((0.7 - chance) / (1 - chance))


def test_where_nobody_could_disagree_there_is_no_number() -> None:
    assert cohen_kappa([]) is None and cohen_kappa([("a", "a")] * 3) is None
    assert fleiss_kappa([]) is None and fleiss_kappa([("a", "a")] * 3) is None
    for level in get_args(Level):
        assert krippendorff_alpha([], level) is None
        assert krippendorff_alpha([[1], [2]], level) is None
        assert krippendorff_alpha([[1, 1], [1, 1]], level) is None
    assert span_f1([{"a": frozenset(), "b": frozenset()}]) is None


TABLES = st.integers(1, 12).flatmap(
    lambda width: st.lists(
        st.lists(st.one_of(st.none(), st.integers(1, 5)), min_size=width, max_size=width),
        min_size=2,
        max_size=5,
    )
)


@given(table=TABLES, level=st.sampled_from(get_args(Level)))
@settings(max_examples=300, deadline=None)
def test_alpha_is_that_of_the_package(table: list[list[int | None]], level: Level) -> None:
    ours = krippendorff_alpha(items(table), level)
    data = np.array([[np.nan if one is None else one for one in row] for row in table], float)
    paired = [unit for unit in items(table) if len(unit) > 1]
    if len({value for unit in paired for value in unit}) < 2:
        assert ours is None
        return
    theirs = krippendorff.alpha(reliability_data=data, level_of_measurement=level)
    assert ours == pytest.approx(theirs, abs=1e-9)


@given(
    units=st.lists(st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "y", "z"]))),
    order=st.permutations("abc"),
)
@settings(max_examples=100, deadline=None)
def test_no_measure_is_above_one_and_none_depends_on_names(
    units: list[dict[str, str]], order: list[str]
) -> None:
    scheme = scheme_of({"kind": "classification", "fields": ["t"], "labels": ["x", "y", "z"]})
    told = report(scheme, units)
    renamed = dict(zip("abc", order, strict=True))
    other = report(scheme, [{renamed[who]: what for who, what in one.items()} for one in units])
    assert (told["alpha"], told["fleiss"]) == (other["alpha"], other["fleiss"])
    found = [told["alpha"]["nominal"], *(one["kappa"] for one in told["cohen"])]
    assert all(one is None or one <= 1 for one in found)
    if told["same"] == 1.0 and told["alpha"]["nominal"] is not None:
        assert told["alpha"]["nominal"] == 1.0


def test_spans_are_compared_by_what_both_marked() -> None:
    scheme = scheme_of({"kind": "spans", "fields": ["t"], "labels": ["A", "B"]})

    def span(start: int, label: str = "A") -> dict[str, Any]:
        return {"start": start, "end": start + 1, "label": label}

    units = [
        {"x": [span(0), span(2)], "y": [span(0), span(2, "B")]},
        {"x": [span(4)], "y": [span(4)]},
        {"x": [span(9)]},
    ]
    told = report(scheme, units)
    assert told == {"items": 2, "annotators": 2, "same": 0.5, "f1": round(4 / 6, 6)}


def test_several_labels_are_also_compared_one_by_one() -> None:
    given_ = {"kind": "classification", "fields": ["t"], "labels": ["a", "b"], "several": True}
    units = [{"x": ["a"], "y": ["a", "b"]}, {"x": [], "y": []}, {"x": ["a"], "y": ["a"]}]
    told = report(scheme_of(given_), units)
    assert told["alpha_by_label"]["a"] == 1.0
    assert told["alpha_by_label"]["b"] is not None and told["alpha_by_label"]["b"] < 1
    assert told["same"] == pytest.approx(2 / 3, abs=1e-6)


def test_ratings_are_compared_by_rank_and_by_distance() -> None:
    scheme = scheme_of({"kind": "rating", "fields": ["t"]})
    units = [{"x": 1, "y": 2}, {"x": 5, "y": 5}, {"x": 3, "y": 3}]
    told = report(scheme, units)["alpha"]
    assert told["nominal"] < min(told["ordinal"], told["interval"]) < 1
    assert math.isclose(
        told["interval"],
        round(
            float(
                krippendorff.alpha(
                    reliability_data=[[1, 5, 3], [2, 5, 3]], level_of_measurement="interval"
                )
            ),
            6,
        ),
    )
