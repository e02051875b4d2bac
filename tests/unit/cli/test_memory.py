from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.cli import main, server

MB = 10**6
MEMORY: dict[str, Any] = {
    "capacity_bytes": 1000 * MB,
    "reserved_bytes": 650 * MB,
    "available_bytes": 800 * MB,
    "floor_bytes": 50 * MB,
    "engine": {"reserved_bytes": 500 * MB, "measured_bytes": 620 * MB},
    "jobs": [
        {
            "id": 7,
            "kind": "train",
            "name": "poet",
            "predicted_bytes": 100 * MB,
            "reserved_bytes": 150 * MB,
            "measured_bytes": 130 * MB,
            "peak_bytes": 136 * MB,
            "file_bytes": 0,
            "held": True,
            "error": -0.265,
        }
    ],
    "models": [
        {
            "name": "small:1",
            "state": "loading",
            "predicted_bytes": 500 * MB,
            "reserved_bytes": 500 * MB,
            "measured_bytes": None,
            "error": None,
        }
    ],
    "history": [
        {
            "kind": "train",
            "num_rows": 12,
            "median_error": 0.061,
            "worst_error": -0.31,
            "num_short": 1,
            "median_error_s": None,
        }
    ],
}


class StubClient:
    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def memory(self) -> dict[str, Any]:
        return self._told


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    told = dict(MEMORY)
    monkeypatch.setattr(server, "open_client", lambda *_, **__: StubClient(told))
    return told


def test_ps_memory_shows_predictions_and_how_far_off_they_were(
    told: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["ps", "--memory"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "WHAT PREDICTED RESERVED MEASURED PEAK ERROR STATE",
        "job 7 train poet 100.0 MB 150.0 MB 130.0 MB 136.0 MB -26% held",
        "model small:1 500.0 MB 500.0 MB - - - loading",
        "engine - 500.0 MB 620.0 MB - - -",
        "650.0 MB of 1.0 GB reserved, 800.0 MB left on the machine",
        "",
        "KIND N MEDIAN ERROR WORST TOO SMALL MEDIAN ERROR OF TIME",
        "train 12 6% -31% 1 -",
    ]


def test_ps_memory_says_so_where_nothing_was_measured(
    told: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    told["history"] = []
    assert main.invoke(["ps", "--memory"]) == 0
    assert "nothing was measured yet" in capsys.readouterr().err


def test_ps_memory_prints_json(told: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["ps", "--memory", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == MEMORY
