"""`llmos schedule`, `webhooks`, `jobs retry` and `jobs watch` against a stub of the client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmos.cli import jobs, main, schedules, webhooks
from llmos.errors import InvalidRequestError

SCHEDULE: dict[str, Any] = {
    "id": 3,
    "name": "nightly",
    "cron": "0 2 * * *",
    "timezone": "Asia/Shanghai",
    "next_at": 1_795_000_000.0,
    "last_at": None,
    "last_error": "left out: run 7 was still going on",
    "owner": "admin",
}
WEBHOOK: dict[str, Any] = {
    "id": 1,
    "url": "https://ci.example/hook",
    "events": ["job.failed"],
    "owner": "admin",
    "created_at": 0.0,
}
DELIVERY: dict[str, Any] = {
    "id": 9,
    "webhook_id": 1,
    "event": "job.failed",
    "payload": {"type": "job.failed", "data": {"id": 42}},
    "state": "dead",
    "attempt": 9,
    "not_before": 0.0,
    "error": "it answered 503",
    "created_at": 0.0,
}
PIPELINE = "name: nightly\nsteps:\n  a:\n    kind: train\n"


class StubClient:
    """Answers as the server would and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.transport = None

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_schedule(
        self,
        cron: str,
        pipeline: dict[str, Any],
        timezone: str,
        name: str | None,
        on_progress: Any,
    ) -> dict[str, Any]:
        self.asked.append((cron, pipeline["name"], timezone, name))
        if cron == "0 0 31 2 *":
            raise InvalidRequestError("'0 0 31 2 *' never comes due: there is no such day")
        return SCHEDULE

    def schedules(self) -> list[dict[str, Any]]:
        return [SCHEDULE]

    def remove_schedule(self, number: int) -> None:
        self.asked.append(("rm", number))

    def add_webhook(self, url: str, events: list[str] | None) -> dict[str, Any]:
        self.asked.append((url, events))
        return {**WEBHOOK, "secret": "whsec_abc"}

    def webhooks(self) -> list[dict[str, Any]]:
        return [WEBHOOK]

    def remove_webhook(self, number: int) -> None:
        self.asked.append(("rm", number))

    def deliveries(self, *given: Any) -> list[dict[str, Any]]:
        self.asked.append(given)
        return [] if "pending" in given else [DELIVERY]

    def jobs(self, limit: int, states: Any) -> list[dict[str, Any]]:
        self.asked.append((limit, list(states)))
        return []

    def retry_job(self, number: int) -> dict[str, Any]:
        return {"id": number, "state": "queued"}

    def events(self) -> Iterator[dict[str, Any]]:
        state = {"state": "failed", "attempt": 1, "error": {"message": "no"}}
        yield {"id": 1, "job_id": 7, "type": "state", "data": state, "at": 0.0}
        yield {"id": 2, "job_id": 7, "type": "log", "data": {"line": "x"}, "at": 0.0}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    for module in (schedules, webhooks, jobs):
        monkeypatch.setattr(module, "open_client", lambda *_, **__: stub)
    return stub


@pytest.fixture
def pipeline(tmp_path: Path) -> str:
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE)
    return str(path)


def test_a_schedule_is_added_from_a_pipeline_file(
    client: StubClient, pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["schedule", "add", "0 2 * * *", pipeline, "--timezone", "Asia/Shanghai"]
    assert main.invoke([*command, "--name", "mine"]) == 0
    assert main.invoke(["schedule", "add", "@daily", pipeline]) == 0
    assert client.asked == [
        ("0 2 * * *", "nightly", "Asia/Shanghai", "mine"),
        ("@daily", "nightly", "UTC", None),
    ]
    assert "schedule 3 (nightly) runs first at 2026-11-" in capsys.readouterr().out


def test_a_schedule_that_is_refused_is_one_line_and_a_code(
    client: StubClient, pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["schedule", "add", "0 0 31 2 *", pipeline]) == 2
    assert capsys.readouterr().err.strip().endswith("never comes due: there is no such day")
    assert main.invoke(["schedule", "add", "@daily", "missing.yaml"]) == 2
    assert "missing.yaml" in capsys.readouterr().err


def test_schedules_are_listed_with_what_troubles_them(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["schedule", "list"]) == 0
    out = capsys.readouterr().out
    assert "Asia/Shanghai" in out
    assert "left out: run 7" in out
    assert main.invoke(["schedule", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [SCHEDULE]
    assert main.invoke(["schedule", "rm", "3"]) == 0
    assert client.asked == [("rm", 3)]


def test_a_webhooks_secret_alone_is_on_stdout(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "https://ci.example/hook"
    assert main.invoke(["webhooks", "add", url, "--event", "job.failed"]) == 0
    assert capsys.readouterr().out == "whsec_abc\n"
    assert main.invoke(["webhooks", "add", url]) == 0
    assert client.asked == [(url, ["job.failed"]), (url, None)]


def test_webhooks_and_what_was_sent_are_listed(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["webhooks", "list"]) == 0
    assert "https://ci.example/hook" in capsys.readouterr().out
    command = ["webhooks", "deliveries", "--webhook", "1", "--state", "dead", "--limit", "5"]
    assert main.invoke(command) == 0
    out = capsys.readouterr().out
    assert "42" in out
    assert "it answered 503" in out
    assert main.invoke(["webhooks", "deliveries", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [DELIVERY]
    assert main.invoke(["webhooks", "rm", "1"]) == 0
    assert client.asked == [(1, "dead", 5), (None, None, 100), ("rm", 1)]


def test_a_list_that_is_empty_for_what_was_asked_does_not_say_that_there_is_nothing(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["webhooks", "deliveries", "--state", "pending"]) == 0
    assert "nothing is pending" in capsys.readouterr().err
    assert main.invoke(["jobs", "--state", "failed", "--state", "paused"]) == 0
    assert "no job is failed or paused" in capsys.readouterr().err
    assert main.invoke(["jobs"]) == 0
    assert "no jobs yet" in capsys.readouterr().err


def test_jobs_are_picked_by_state_and_run_again(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["jobs", "--state", "failed", "--state", "cancelled"]) == 0
    assert client.asked == [(100, ["failed", "cancelled"])]
    assert main.invoke(["jobs", "retry", "7"]) == 0
    assert capsys.readouterr().out == "job 7 is queued again\n"


def test_watching_shows_what_becomes_of_every_job(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["jobs", "watch"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith(" job 7 failed: no")
    assert main.invoke(["jobs", "watch", "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
