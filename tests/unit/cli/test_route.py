"""`llmos route` against a stub of the SDK's client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.cli import main, route

ROUTE: dict[str, Any] = {
    "name": "support",
    "targets": [{"model": "a:1", "weight": 9.0}, {"model": "b", "weight": 1.0}],
    "fallbacks": ["c"],
    "owner": "admin",
    "updated_at": 0.0,
}
WHY: dict[str, Any] = {
    "name": "auto",
    "task": "chat",
    "rule": "measured",
    "model": "b:1",
    "failed": [],
    "candidates": [
        {
            "model": "a:1",
            "latency_ms": 5000.0,
            "cost": 4.5,
            "quality": 0.5,
            "measured": False,
            "score": 0.0,
            "excluded": "max_latency_ms",
        },
        {
            "model": "b:1",
            "latency_ms": 120.4,
            "cost": 0.11,
            "quality": 0.91,
            "measured": True,
            "score": 0.75,
            "excluded": None,
        },
    ],
}


class StubClient:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def routes(self) -> list[dict[str, Any]]:
        return [ROUTE]

    def set_route(self, *arguments: Any) -> dict[str, Any]:
        self.asked.append(arguments)
        return ROUTE

    def remove_route(self, name: str, owner: str | None) -> None:
        self.asked.append((name, owner))

    def explain_route(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        self.asked.append((*arguments, {k: v for k, v in more.items() if v is not None}))
        return WHY


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    monkeypatch.setattr(route, "open_client", lambda *_, **__: stub)
    return stub


@pytest.mark.parametrize("command", [["route"], ["route", "list"]])
def test_routes_are_listed(
    client: StubClient, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    assert main.invoke(command) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["NAME", "MODELS", "FALLBACKS"]
    assert row.split()[:4] == ["support", "a:1=9", "b=1", "c"]
    assert main.invoke([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ROUTE]


def test_a_route_is_set_and_removed(client: StubClient, capsys: pytest.CaptureFixture[str]) -> None:
    set_it = ["route", "set", "support", "--to", "a:1=9", "--to", "b", "--fallback", "c"]
    assert main.invoke(set_it) == 0
    assert "support now means a:1=9 b=1, else c" in capsys.readouterr().out
    assert main.invoke(["route", "rm", "support"]) == 0
    assert main.invoke(["route", "rm", "support", "--owner", "alice"]) == 0
    made = ("support", {"a:1": 9.0, "b": 1.0}, ["c"])
    assert client.asked == [made, ("support", None), ("support", "alice")]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["route", "set", "support"], "--to"),
        (["route", "set", "support", "--to", "a=much"], "'much' in --to a=much is not a number"),
        (["route", "set", "support", "--to", "a", "--to", "a=2"], "names a twice"),
        (["route", "--explain", "x", "list"], "stands alone"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    client: StubClient, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main.invoke(arguments) == 2
    assert says in capsys.readouterr().err
    assert client.asked == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["route", "--explain", "What is DNA?", "--max-latency-ms", "2000"],
        ["route", "explain", "What is DNA?", "--task", "chat", "--max-latency-ms", "2000"],
    ],
)
def test_a_choice_is_explained_either_way(
    client: StubClient, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert main.invoke(arguments) == 0
    assert client.asked == [("What is DNA?", "auto", "chat", {"max_latency_ms": 2000.0})]
    shown = capsys.readouterr()
    assert "b:1 would answer (the best by what was measured)" in shown.err
    _, best, other = shown.out.splitlines()
    assert best.split() == ["b:1", "0.750", "120", "ms", "0.91", "0.11", "s", "-"]
    assert other.split() == [
        *("a:1", "-", "5000", "ms", "0.50", "?", "4.5", "s", "max_latency_ms"),
    ]
    assert main.invoke([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == WHY


def test_the_languages_of_a_translation_are_passed_on(client: StubClient) -> None:
    asked = ["route", "explain", "Hello", "--task", "translate", "--from", "en", "--to", "zh"]
    assert main.invoke(asked) == 0
    languages = {"source_lang": "en", "target_lang": "zh"}
    assert client.asked == [("Hello", "auto", "translate", languages)]
