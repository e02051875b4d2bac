"""Numbers of a report, against hand and numpy."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmos.simulate.clock import picoseconds
from llmos.simulate.report import Tally, Work, jain, make_report, percentiles
from llmos.simulate.scenario import Targets
from llmos.simulate.traces import Request
from llmos.types import Priority

NOTHING = Work(10.0, 5.0, 4.0, 0, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_percentiles_are_numpys(count: int) -> None:
    rng = random.Random(count)
    values = [rng.expovariate(1.0) for _ in range(count)]
    assert percentiles(values) == pytest.approx(np.percentile(values, [50, 95, 99]).tolist())
    assert percentiles([]) == []


def test_fairness_is_jains_index() -> None:
    assert jain([0.3, 0.3, 0.3]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([1.0, 0.5]) == pytest.approx(1.5**2 / (2 * 1.25))
    assert jain([]) == jain([0.0, 0.0]) == 1.0


def request(number: int, tenant: str, priority: Priority = Priority.INTERACTIVE) -> Request:
    return Request(number, picoseconds(number), "model", tenant, priority, 500, 11)


def test_a_report_by_hand(make_scenario: Any) -> None:
    tally = Tally(make_scenario())
    for number, (tenant, ttft_s) in enumerate((("a", 1.0), ("a", 2.4), ("a", 3.6), ("b", 9.0))):
        one = request(number, tenant)
        tally.came(one)
        first_ps = one.at_ps + picoseconds(ttft_s)
        tally.ended(one, first_ps, first_ps + picoseconds(1.0))
    tally.came(request(4, "b"))
    report = make_report(make_scenario(), "by hand", tally, NOTHING)
    assert (report.requests, report.served, report.unserved, report.good) == (5, 4, 1, 2)
    assert report.goodput_per_s == pytest.approx(2 / 4.0), "four seconds, until the last came"
    assert report.good_share == report.all_good_share == pytest.approx(2 / 5)
    assert report.ttft_s["p50"] == pytest.approx(3.0)
    assert report.itl_s["p99"] == pytest.approx(0.1)
    assert report.worst_tenant == 0.0
    assert report.fairness == pytest.approx(0.5), "a has two thirds, b nothing"
    assert report.utilisation == pytest.approx(4.0 / (3 * 4.0))


def test_an_answer_is_good_by_the_targets_of_its_class() -> None:
    targets, chat = Targets(), request(0, "a")
    times = {"alone_s": 0.5, "itl_s": 0.2}
    assert targets.are_met(chat, ttft_s=3.0, total_s=900.0, **times), "2 s, and twice its own"
    assert not targets.are_met(chat, ttft_s=3.01, total_s=3.0, **times)
    assert not targets.are_met(chat, ttft_s=0.1, total_s=3.0, **times | {"itl_s": 0.21})
    batch = request(1, "a", Priority.BATCH)
    assert targets.are_met(batch, ttft_s=250.0, total_s=300.0, **times | {"itl_s": 1.0})
    assert not targets.are_met(batch, ttft_s=0.1, total_s=301.0, **times)


def test_the_digest_changes_with_any_number(make_scenario: Any) -> None:
    tally = Tally(make_scenario())
    tally.came(request(0, "a"))
    report = make_report(make_scenario(), "one", tally, NOTHING)
    assert report.as_json()["digest"] == report.as_json()["digest"]
    assert report.as_json()["digest"] != replace(report, loads=1).as_json()["digest"]
