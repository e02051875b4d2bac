"""`llmos pipeline` against a stub of the SDK's client: what it asks for and what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.cli import main, pipelines
from llmos.errors import PipelineError

FILE = """
name: nightly
steps:
  train: {kind: train, params: {recipe: char-gpt, name: mine}}
  quantize: {kind: quantize, params: {model: "${train.model}"}}
"""


def job(id: int, state: str, **values: Any) -> dict[str, Any]:
    times = {"started_at": 10.0, "finished_at": 70.0 + id}
    return {"number": 0, "id": id, "state": state, "artifacts": [], "error": None} | times | values


def step(name: str, state: str, **values: Any) -> dict[str, Any]:
    base = {"name": name, "kind": name, "after": [], "each": [], "state": state}
    return base | {"total": 1, "jobs": []} | values


DONE: dict[str, Any] = {
    "id": 3,
    "name": "nightly",
    "state": "succeeded",
    "error": None,
    "created_at": 0.0,
    "finished_at": 150.0,
    "steps": [
        step("train", "succeeded", jobs=[job(7, "succeeded", artifacts=["mine:1"])]),
        step(
            "quantize",
            "succeeded",
            after=["train"],
            each=["dtype"],
            total=2,
            jobs=[job(8, "succeeded"), job(9, "succeeded", artifacts=["mine-int8:1"])],
        ),
    ],
}
FAILED = DONE | {
    "state": "failed",
    "error": {"code": "job_failed", "message": "step train: job 7 failed: it is empty"},
    "steps": [
        step("train", "failed", jobs=[job(7, "failed")]),
        step("quantize", "skipped", after=["train"], each=["dtype"], total=None),
    ],
}
RUNNING = DONE | {"state": "running", "finished_at": None}
RUNNING |= {"steps": [step("train", "running", jobs=[job(7, "running")]), DONE["steps"][1]]}
RUNNING["steps"][1] = step("quantize", "waiting", after=["train"], each=["dtype"], total=2)


class StubClient:
    """Answers as the server would and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.ended = DONE

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run_pipeline(self, pipeline: dict[str, Any], on_progress: object) -> dict[str, Any]:
        self.asked.append(("run", pipeline))
        return RUNNING

    def check_pipeline(self, pipeline: dict[str, Any], on_progress: object) -> dict[str, Any]:
        if "gone" in pipeline["steps"]:
            raise PipelineError("line 7: there is no job kind 'gone'")
        return {"name": "nightly", "steps": [step("train", "waiting"), RUNNING["steps"][1]]}

    def follow_pipeline(self, number: int) -> Iterator[dict[str, Any]]:
        yield RUNNING
        yield self.ended

    def pipeline(self, number: int) -> dict[str, Any]:
        return self.ended

    def pipelines(self, limit: int) -> list[dict[str, Any]]:
        self.asked.append(("list", limit))
        return [FAILED, DONE][: self.asked[-1][1]]

    def cancel_pipeline(self, number: int) -> None:
        self.asked.append(("cancel", number))

    def retry_pipeline(self, number: int) -> None:
        self.asked.append(("retry", number))


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    monkeypatch.setattr(pipelines, "open_client", lambda *_, **__: stub)
    return stub


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "nightly.yaml"
    path.write_text(FILE)
    return str(path)


def test_a_run_is_followed_step_by_step_and_ends_with_its_graph(
    client: StubClient, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change = "steps.train.params.set.steps=5"
    assert main.invoke(["pipeline", "run", file, "--set", change]) == 0
    ((_, sent),) = client.asked
    assert sent["steps"]["train"]["params"]["recipe"]["steps"] == 5
    assert sent["lines"]["steps.quantize.params.model"] == 5
    printed = capsys.readouterr()
    assert printed.out == "✓ train ── ✓ quantize ×2\n"
    assert printed.err.splitlines() == [
        "train: running",
        "train: succeeded",
        "quantize: succeeded, 2 of 2",
    ]


def test_a_run_that_failed_says_why_and_how_to_go_on(
    client: StubClient, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    client.ended = FAILED
    assert main.invoke(["pipeline", "run", file]) == 1
    printed = capsys.readouterr()
    assert printed.out == "✗ train ── - quantize ×n\n"
    assert "error: step train: job 7 failed: it is empty (`llmos pipeline retry 3`" in printed.err
    client.ended = DONE | {"state": "cancelled"}
    assert main.invoke(["pipeline", "run", file]) == 1
    assert "run 3 was cancelled" in capsys.readouterr().err


def test_detached_and_json(
    client: StubClient, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["pipeline", "run", file, "-d"]) == 0
    assert capsys.readouterr().out.startswith("run 3: `llmos pipeline show 3`")
    assert main.invoke(["pipeline", "run", file, "-d", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == RUNNING
    assert main.invoke(["pipeline", "run", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == DONE


def test_ctrl_c_leaves_the_run_going(
    client: StubClient,
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def interrupted(_: int) -> Iterator[dict[str, Any]]:
        yield RUNNING
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "follow_pipeline", interrupted)
    assert main.invoke(["pipeline", "run", file]) == 130
    said = capsys.readouterr().err
    assert "llmos pipeline show 3" in said and "llmos pipeline cancel 3" in said


def test_what_is_wrong_is_one_line_with_its_place(
    client: StubClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: x\nsteps:\n  a: {}\n  a: {}\n")
    assert main.invoke(["pipeline", "check", str(path)]) == 2
    assert capsys.readouterr().err == "error: line 4: the key 'a' is there twice\n"
    path.write_text("name: x\nsteps:\n  gone: {}\n")
    assert main.invoke(["pipeline", "check", str(path)]) == 2
    assert capsys.readouterr().err == "error: line 7: there is no job kind 'gone'\n"
    assert main.invoke(["pipeline", "run", str(tmp_path / "none.yaml")]) == 2
    assert "there is no pipeline" in capsys.readouterr().err
    assert client.asked == []


def test_a_check_shows_the_graph_and_draws_it(
    client: StubClient, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "graph.svg"
    assert main.invoke(["pipeline", "check", file, "--svg", str(picture)]) == 0
    assert capsys.readouterr().out == "· train ── · quantize ×2\n"
    assert picture.read_text("utf-8").startswith("<svg ")
    assert main.invoke(["pipeline", "check", file, "--mermaid"]) == 0
    assert capsys.readouterr().out.startswith("graph LR\n")
    assert main.invoke(["pipeline", "check", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "nightly"


def test_a_run_is_shown_with_its_graph_and_jobs(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["pipeline", "show", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "run 3  nightly  succeeded  2 minutes"
    assert lines[2] == "✓ train ── ✓ quantize ×2"
    assert lines[4].split() == ["STEP", "KIND", "STATE", "JOBS", "TOOK", "MADE"]
    assert lines[5].split() == ["train", "train", "succeeded", "7", "1", "minute", "mine:1"]
    shown = "quantize quantize succeeded, 2 of 2 8-9 1 minute mine-int8:1"
    assert lines[6].split() == shown.split()
    client.ended = FAILED
    assert main.invoke(["pipeline", "show", "3"]) == 0
    said = capsys.readouterr().out
    assert said.endswith(
        "\nstep train: job 7 failed: it is empty\n`llmos pipeline retry 3` goes on from there\n"
    )
    assert main.invoke(["pipeline", "show", "3", "--mermaid"]) == 0
    assert capsys.readouterr().out.startswith("graph LR\n")
    assert main.invoke(["pipeline", "show", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FAILED


def test_runs_are_listed_cancelled_and_retried(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["pipeline", "list", "--limit", "5"]) == 0
    heading, failed, done = capsys.readouterr().out.splitlines()
    assert heading.split() == ["N", "NAME", "STATE", "MADE", "TOOK", "ERROR"]
    assert failed.endswith("step train: job 7 failed: it is empty")
    assert done.split()[:3] == ["3", "nightly", "succeeded"]
    assert main.invoke(["pipeline", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [FAILED, DONE]
    assert main.invoke(["pipeline", "cancel", "3"]) == 0
    assert main.invoke(["pipeline", "retry", "3"]) == 0
    assert client.asked == [("list", 5), ("list", 100), ("cancel", 3), ("retry", 3)]
    assert "llmos pipeline retry 3" in capsys.readouterr().out
