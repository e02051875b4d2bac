"""`llmos feedback` and `llmos teach` against a stub of the SDK's client."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmos.cli import feedback, main

ROW: dict[str, Any] = {
    "id": 7,
    "model": "helper:1",
    "good": False,
    "rating": 2,
    "prompt": [{"role": "user", "content": "首都是哪里？"}],
    "text": "上海",
    "correction": "北京",
    "comment": None,
    "at": 0.0,
}


class StubClient:
    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer: dict[str, Any] = {
            "model": "a:1",
            "task": "chat",
            "language": "",
            "good": False,
        }

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def feedback(self, good: bool | None, **more: Any) -> dict[str, Any]:
        self.asked.append((good, {key: value for key, value in more.items() if value}))
        return self.answer

    def feedback_given(self, model: str | None, *, limit: int) -> list[dict[str, Any]]:
        self.asked.append((model, limit))
        return [ROW]

    def forget_feedback(self, number: int) -> None:
        self.asked.append(number)

    def teach(self, model: str, rows: Iterable[Any]) -> dict[str, Any]:
        self.asked.append((model, list(rows)))
        return {"model": "helper:1", "added": 2, "known": 0}


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    monkeypatch.setattr(feedback, "open_client", lambda *_, **__: stub)
    return stub


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--good"], "give a model or --response"),
        (["a", "--good", "--response", "r"], "give a model or --response"),
        (["--response", "r"], "say --good, --bad, --rating"),
        (["a", "--correction", "x"], "are of a --response"),
        (["--response", "r", "--rating", "6"], "less than or equal to 5"),
        (["--forget", "3", "--good"], "--forget stands alone"),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    client: StubClient, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main.invoke(["feedback", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert client.asked == []


def test_a_verdict_is_passed_on(client: StubClient, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.invoke(["feedback", "a", "--bad", "--language", "zh"]) == 0
    assert capsys.readouterr().out == "noted for a:1 (chat): bad\n"
    assert main.invoke(["feedback", "--response", "resp_1", "--good"]) == 0
    assert "llmos answers on" in capsys.readouterr().err, "it teaches nothing, and why"
    assert client.asked == [
        (False, {"model": "a", "language": "zh"}),
        (True, {"response_id": "resp_1"}),
    ]


def test_what_is_kept_to_be_learned_is_numbered(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    client.answer |= {"id": 7}
    given = ["feedback", "--response", "resp_1", "--correction", "北京", "--rating", "2"]
    assert main.invoke(given) == 0
    shown = capsys.readouterr()
    assert shown.out == "noted for a:1 (chat): bad, feedback 7\n" and not shown.err
    client.answer = {"model": "a:1", "good": None, "id": 8}
    assert main.invoke(["feedback", "--response", "resp_1", "--comment", "hm"]) == 0
    assert capsys.readouterr().out == "kept with the answer of a:1, feedback 8\n"
    said = {"response_id": "resp_1", "correction": "北京", "rating": 2}
    assert client.asked[0] == (None, said)


def test_what_was_said_is_listed_and_forgotten(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["feedback", "helper"]) == 0
    heading, row = capsys.readouterr().out.splitlines()
    assert heading.split()[:4] == ["ID", "MODEL", "VERDICT", "ASKED"]
    assert row.split()[:7] == ["7", "helper:1", "bad", "2/5", "首都是哪里？", "上海", "北京"]
    assert main.invoke(["feedback", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [ROW]
    assert main.invoke(["feedback", "--forget", "7"]) == 0
    assert client.asked == [("helper", 20), (None, 20), 7]


def test_a_file_of_rows_is_given(
    client: StubClient, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [{"text": "一"}, {"text": "two"}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main.invoke(["teach", "helper", str(file)]) == 0
    assert capsys.readouterr().out == "2 new rows for helper:1, 0 were there\n"
    assert client.asked == [("helper", rows)]
    file.write_text("no json\n")
    assert main.invoke(["teach", "helper", str(file)]) == 2
    assert "line 1 is not JSON" in capsys.readouterr().err
