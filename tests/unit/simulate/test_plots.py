"""Pictures: written where they are asked for, or refused before anything is simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmos.errors import InvalidRequestError
from llmos.simulate.cluster import simulate
from llmos.simulate.plots import check_format, draw_policies, draw_sweeps
from llmos.simulate.policies import POLICIES


def test_policies_and_sweeps_are_drawn(make_scenario: Any, tmp_path: Path) -> None:
    scenario = make_scenario(num_requests=10)
    reports = [simulate(scenario, POLICIES[name], name).report for name in ("llmos", "static")]
    draw_policies(reports, tmp_path / "policies.svg")
    sweep = {report.policy: [report.as_json()] * 2 for report in reports}
    draw_sweeps({"synthetic": sweep}, tmp_path / "sweep.svg")
    for name in ("policies.svg", "sweep.svg"):
        assert "llmos" in (tmp_path / name).read_text("utf-8") or (tmp_path / name).stat().st_size


def test_a_name_that_says_no_format_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"\.png"):
        check_format(Path("plot.txt"))
