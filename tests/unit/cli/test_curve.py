"""`llmos curve`: of a model, of a job, drawn, as JSON, refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from llmos.cli import curve, main
from llmos.sdk.comparing import points_of


def metric(step: float, **values: float) -> dict[str, Any]:
    return {"type": "metric", "data": {"step": step, "values": values}}


POINTS = [{"step": float(n), "loss": 4.0 / n, "tokens_per_s": 10.0} for n in range(1, 41)]
POINTS[-1]["validation_loss"] = 0.2


class Stub:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def model(self, ref: str) -> dict[str, Any]:
        return {"ref": f"{ref}:1", "files": {} if ref == "bought" else {"loss.json": {}}}

    def model_json(self, ref: str, filename: str) -> dict[str, Any]:
        return {"points": POINTS}

    def job(self, number: int) -> dict[str, Any]:
        return {"id": number, "kind": "train" if number == 7 else "pull", "name": "n"}

    def job_events(self, number: int, follow: bool = True) -> Iterator[dict[str, Any]]:
        assert not follow
        yield from (
            metric(p["step"], **{k: v for k, v in p.items() if k != "step"}) for p in POINTS
        )


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "open_client", lambda server, home: Stub())


@pytest.mark.parametrize("run", ["mine", "7"])
def test_a_curve_is_shown_printed_and_drawn(
    run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    assert main.invoke(["curve", run, "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "VALIDATION_LOSS" in shown and len(shown.splitlines()) == 1 + curve.ROWS
    assert "40" in shown.splitlines()[-1] and "0.2" in shown.splitlines()[-1]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert main.invoke(["curve", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"] == POINTS


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["8"], "job 8 is a pull: only trainings have a curve"),
        (["bought"], "it was not trained here"),
        (["mine", "--plot", "curve.txt"], "--plot writes .pdf, .png, .svg"),
    ],
)
def test_what_has_no_curve_is_refused(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["curve", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_what_was_measured_anew_after_a_kill_counts() -> None:
    events = [metric(1, loss=3.0), metric(2, loss=2.5), metric(3, loss=2.0)]
    events += [{"type": "log", "data": {"line": "going on"}}, metric(2, loss=2.4)]
    assert points_of(events) == [{"step": 1.0, "loss": 3.0}, {"step": 2.0, "loss": 2.4}]
