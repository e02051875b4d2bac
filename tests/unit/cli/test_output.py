"""Sizes, counts and ages as a person reads them."""

from __future__ import annotations

import pytest

from llmos.cli.output import age, count, duration, job_state, signed_percent, size, visible


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (2_500_000, "2.5 MB"), (3e12, "3.0 TB")],
)
def test_size(count_bytes: float | None, text: str) -> None:
    assert size(count_bytes) == text


def test_a_terminal_shows_what_would_move_its_cursor() -> None:
    assert visible("a\x1b[2J\x07\r\u202e好\n") == r"a\x1b[2J\x07\r\u202e好" + "\n"
    assert visible("全　角\t👩\u200d🔬 é\u00a0") == "全　角\t👩\u200d🔬 é\u00a0"


def test_count() -> None:
    assert [count(n) for n in (12, 4_500_000, 596e6)] == ["12", "4.5M", "596M"]


def test_durations_and_ages() -> None:
    assert [duration(s) for s in (1, 59.9, 60, 7200, 90000)] == [
        "1 second",
        "59 seconds",
        "1 minute",
        "2 hours",
        "1 day",
    ]
    assert age(100.0, now=160.0) == "1 minute ago"


@pytest.mark.parametrize(
    ("state", "held", "shown"),
    [
        ("queued", [], "queued"),
        ("running", ["interactive"], "running (held: interactive)"),
        ("running", ["memory", "quota"], "running (held: memory, quota)"),
        ("paused", ["user"], "paused"),
    ],
)
def test_a_jobs_state_says_why_it_stands_still(state: str, held: list[str], shown: str) -> None:
    assert job_state({"state": state, "held": held}) == shown


def test_a_difference_has_a_sign_unless_it_is_none() -> None:
    shares = (None, 0.125, -0.125, 0.001, -0.001)
    assert [signed_percent(share) for share in shares] == ["-", "+12%", "-12%", "0%", "0%"]
