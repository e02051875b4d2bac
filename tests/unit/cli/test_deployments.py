"""Deploying, tracing and replaying on the command line: what is asked for and what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.cli import deployments, lineage, main

MADE: dict[str, Any] = {
    "ref": "m@production",
    "model": "m:2",
    "candidate": None,
    "weight": 0.0,
    "gates": ["test/f1 >= current"],
    "updated_at": 0.0,
    "checks": [{"gate": "test/f1 >= current", "value": 0.9, "bound": 0.8, "passed": True}],
}
EVENT = {"action": "deploy", "from_number": 1, "to_number": 2, "reason": "", "actor": "k", "at": 0}
BASE: dict[str, Any] = {
    "ref": "base:1",
    "kind": "model",
    "digest": "sha256:8",
    "aliases": [],
    "removed_at": None,
    "made_by": None,
    "recipe": None,
    "inputs": [],
}
VERSION: dict[str, Any] = {
    "ref": "m:2",
    "kind": "model",
    "digest": "sha256:1",
    "aliases": ["latest"],
    "removed_at": None,
    "made_by": {"job": 7, "kind": "train", "owner": "alice", "data": {"a.txt": "sha256:2"}},
    "recipe": {"steps": 10, "text": "x" * 500},
    "inputs": [BASE, {"ref": "sha256:2"}, {"ref": BASE["digest"]}, {"ref": "sha256:9"}],
}
ANSWER: dict[str, Any] = {
    "id": "abc",
    "at": 0.0,
    "owner": "alice",
    "asked": "m@production",
    "model": "m:2",
    "runs_as": "m-int8:1",
    "digest": "sha256:3",
    "request": {"sampling": {"temperature": 0.7, "top_p": 1.0, "seed": 3, "max_tokens": 5}},
    "settings": {"device": "cpu", "dtype": "auto"},
}


class Stub:
    """Stands in for the SDK's client."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.same = True

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def deploy(self, model: str, alias: str, **options: Any) -> dict[str, Any]:
        self.asked.append((model, alias, options))
        is_whole = options["weight"] is None
        return MADE if is_whole else MADE | {"candidate": "m:3", "weight": options["weight"]}

    def promote(self, deployment: str) -> dict[str, Any]:
        return MADE

    def rollback(self, deployment: str, reason: str) -> dict[str, Any]:
        self.asked.append((deployment, reason))
        return MADE | {"model": "m:1"}

    def deployments(self) -> list[dict[str, Any]]:
        return [MADE | {"candidate": "m:3", "weight": 0.1}]

    def deployment(self, deployment: str) -> dict[str, Any]:
        return MADE | {"history": [EVENT]}

    def remove_deployment(self, deployment: str) -> dict[str, Any]:
        return MADE

    def lineage(self, ref: str) -> dict[str, Any]:
        return {"versions": [VERSION]}

    def answer_lineage(self, response_id: str) -> dict[str, Any]:
        return {"answer": ANSWER, "versions": [VERSION]}

    def replay(self, response_id: str) -> dict[str, Any]:
        difference = None if self.same else [0, 2]
        return {
            "same": self.same,
            "first_difference": difference,
            "texts": ["hello"],
            "model": "m:2",
        }

    def keep_answers(self, keeps: bool) -> None:
        self.asked.append(keeps)

    def keeps_answers(self) -> bool:
        return bool(self.asked and self.asked[-1])


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    for module in (deployments, lineage):
        monkeypatch.setattr(module, "open_client", lambda *_: stub)
    return stub


Printed = pytest.CaptureFixture[str]


def test_a_version_is_deployed_with_its_gates(client: Stub, capsys: Printed) -> None:
    gates = ["--gate", "test/f1 >= current", "--gate", "loss <= 2"]
    assert main.invoke(["deploy", "m:2", *gates]) == 0
    printed = capsys.readouterr()
    assert printed.out == "m@production is m:2\n"
    assert "passed: test/f1 >= current (0.9 against 0.8)" in printed.err
    options = {"gates": ["test/f1 >= current", "loss <= 2"], "weight": None}
    assert client.asked == [("m:2", "production", options)]


@pytest.mark.parametrize("text", ["10%", "10"])
def test_a_candidate_gets_a_percentage(client: Stub, capsys: Printed, text: str) -> None:
    command = ["deploy", "m:3", "--as", "live", "--canary", text, "--max-error-rate", "0.1"]
    assert main.invoke(command) == 0
    assert client.asked == [("m:3", "live", {"gates": None, "weight": 0.1, "max_error_rate": 0.1})]
    printed = capsys.readouterr()
    assert printed.out == "m@production is m:2; m:3 gets 10% of it\n"
    assert "llmos promote m@production" in printed.err


def test_what_is_no_percentage_is_said_so(client: Stub, capsys: Printed) -> None:
    assert main.invoke(["deploy", "m:3", "--canary", "some"]) == 2
    assert "is not a percentage, as 10% is" in capsys.readouterr().err


def test_promote_rollback_and_rm_say_what_is_meant_now(client: Stub, capsys: Printed) -> None:
    assert main.invoke(["promote", "m@production"]) == 0
    assert main.invoke(["rollback", "m@production", "--reason", "slow"]) == 0
    assert main.invoke(["deployments", "rm", "m@production"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "m@production is m:2",
        "m@production is m:1",
        "m@production is an alias of m:2 now, without a gate",
    ]
    assert client.asked == [("m@production", "slow")]


def test_deployments_are_listed_and_shown_with_their_history(client: Stub, capsys: Printed) -> None:
    assert main.invoke(["deployments"]) == 0
    row = capsys.readouterr().out.splitlines()[1]
    assert row.split()[:4] == ["m@production", "m:2", "m:3", "10%"]
    assert main.invoke(["deployments", "show", "m@production"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["m@production is m:2", "gate test/f1 >= current"]
    assert "deploy" in shown[-1]


def test_a_candidate_is_shown_with_what_was_seen_of_it(
    client: Stub, capsys: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = {"m:2": {"requests": 1, "failures": 1, "timed": 0, "latency_p95_s": None}}
    found = MADE | {"candidate": "m:3", "weight": 0.1, "seen": seen, "history": []}
    monkeypatch.setattr(client, "deployment", lambda _: found)
    shows = ["deployments", "show", "m@production"]
    assert main.invoke(shows) == 0
    assert capsys.readouterr().out.splitlines()[1:4] == [
        "candidate m:3 gets 10%",
        "seen m:2: 1 request, 1 failed",
        "seen m:3: no requests yet",
    ]
    seen["m:3"] = {"requests": 40, "failures": 0, "timed": 39, "latency_p95_s": 0.25}
    assert main.invoke(shows) == 0
    line = "seen m:3: 40 requests, 0 failed, 95% of answers within 0.25 s"
    assert line in capsys.readouterr().out.splitlines()


def test_a_model_is_traced_to_its_job_and_data(client: Stub, capsys: Printed) -> None:
    assert main.invoke(["lineage", "m:2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "m:2 @latest (model)"
    assert "  made by   job 7 (train) of alice" in shown
    assert "  data      a.txt sha256:2" in shown
    assert [line for line in shown if "sha256:2" in line or "from" in line] == [
        "  data      a.txt sha256:2",
        "  from sha256:9",
    ]
    assert sum("sha256:8" in line for line in shown) == 1
    assert all(len(line) < 230 for line in shown)


def test_a_dataset_is_traced_to_the_steps_that_made_it(client: Stub, capsys: Printed) -> None:
    steps = {"pipeline": {"steps": [{"whitespace": {}}, {"exact_dedup": {}}]}}
    client.lineage = lambda ref: {"versions": [VERSION | steps]}  # type: ignore[method-assign]
    assert main.invoke(["lineage", "dataset:clean"]) == 0
    assert "  steps     whitespace, exact_dedup" in capsys.readouterr().out.splitlines()


def test_an_answer_is_traced_to_its_version(client: Stub, capsys: Printed) -> None:
    assert main.invoke(["lineage", "chatcmpl-abc"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "answer abc, 1970-01-01 00:00:00 UTC, for alice"
    assert "  asked of  m@production" in shown
    assert "  runs as   m-int8:1" in shown
    assert "  sampling  temperature 0.7, top_p 1.0, seed 3, max_tokens 5" in shown
    assert "m:2 @latest (model)" in shown


def test_a_replay_says_whether_it_is_the_same(client: Stub, capsys: Printed) -> None:
    assert main.invoke(["replay", "cmpl-1"]) == 0
    printed = capsys.readouterr()
    assert (printed.out, "the same, token by token" in printed.err) == ("hello\n", True)
    client.same = False
    assert main.invoke(["replay", "cmpl-1"]) == 0
    assert "choice 0 differs from token 2 on" in capsys.readouterr().err


def test_keeping_answers_is_switched(client: Stub, capsys: Printed) -> None:
    for arguments in ([], ["on"], ["off"]):
        assert main.invoke(["answers", *arguments]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines == ["answers are not kept", "answers are kept", "answers are not kept"]
    assert printed.err == "the answers that were kept are forgotten\n"
    assert main.invoke(["answers", "maybe"]) == 2


@pytest.mark.parametrize(
    "command",
    [["deploy", "m:2"], ["promote", "m@p"], ["rollback", "m@p"], ["deployments"],
     ["deployments", "show", "m@p"], ["lineage", "m"], ["replay", "cmpl-1"], ["answers"]],
)  # fmt: skip
def test_everything_prints_json(client: Stub, capsys: Printed, command: list[str]) -> None:
    assert main.invoke([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) is not None
