"""`llmos quantize` against a stub of the SDK's client: what it asks for and what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from llmos.cli import main, quantize
from llmos.errors import InvalidRequestError

JOB: dict[str, Any] = {
    "id": 7,
    "kind": "quantize",
    "name": "m",
    "state": "succeeded",
    "error": None,
    "params": {"base": {"ref": "m:1", "manifest": {"weights_bytes": 1_000_000}}},
    "result": {"artifacts": ["m-int8:1"], "weights_bytes": 510_000},
}


class StubClient:
    """Answers as the server would and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.running = "m-int8:1"

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def quantize(self, model: str, to: str, name: str | None) -> dict[str, Any]:
        self.asked.append((model, to, name))
        if to == "int3":
            raise InvalidRequestError("'int3' is nothing to quantise to")
        return JOB | {"state": "queued"}

    def job(self, number: int) -> dict[str, Any]:
        return JOB

    def job_events(self, number: int) -> Iterator[dict[str, Any]]:
        yield {"id": 1, "type": "state", "at": 0.0, "data": {"state": "succeeded"}}

    def model(self, ref: str) -> dict[str, Any]:
        return {"ref": ref, "runs_as": self.running}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    monkeypatch.setattr(quantize, "open_client", lambda *_, **__: stub)
    return stub


def test_it_says_what_became_of_the_size_and_what_runs_now(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["quantize", "m"]) == 0
    assert client.asked == [("m", "int8", None)]
    said = capsys.readouterr().out
    assert "m-int8:1 is ready: 1.0 MB of weights became 510.0 KB" in said
    assert "m:1 now runs as it; `llmos show m-int8:1`" in said
    client.running = "m:1"  # on a GPU, say
    assert main.invoke(["quantize", "m", "--to", "int4", "--name", "small"]) == 0
    assert client.asked[-1] == ("m", "int4", "small")
    assert "`llmos run m-int8:1`; `llmos show" in capsys.readouterr().out


def test_json_and_detached(client: StubClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["quantize", "m", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["artifacts"] == ["m-int8:1"]
    assert main.invoke(["quantize", "m", "--detach"]) == 0
    assert "job 7: `llmos jobs logs 7 -f` follows it" in capsys.readouterr().out


def test_ctrl_c_detaches_and_says_how_to_come_back(
    client: StubClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> Iterator[dict[str, Any]]:
        yield {"id": 1, "type": "state", "at": 0.0, "data": {"state": "running"}}
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "job_events", interrupted)
    monkeypatch.setattr(client, "job", lambda _: JOB | {"state": "running"})
    assert main.invoke(["quantize", "m"]) == 130
    said = capsys.readouterr().err
    assert "llmos jobs logs 7 -f" in said and "llmos jobs cancel 7" in said


def test_what_the_server_refuses_is_one_line(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["quantize", "m", "--to", "int3"]) == 2
    assert capsys.readouterr().err.startswith("error: 'int3' is nothing to quantise to")
