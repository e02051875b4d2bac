"""`llmos data split` and `mix`: what is sent, and what is said."""

from __future__ import annotations

import json
from typing import Any, Self

import pytest

from llmos.cli import data_shape, main


class Stub:
    """Answers as the server would."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.state = "succeeded"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def split_dataset(self, ref: str, parts: Any, **options: Any) -> Any:
        self.sent.append((ref, parts, options))
        return self._job(dict.fromkeys(parts, 1200), [f"{ref}-{part}:1" for part in parts])

    def mix_datasets(self, name: str, weights: Any, **options: Any) -> Any:
        self.sent.append((name, weights, options))
        return self._job({f"{ref}:1": 3 for ref in weights}, [f"{name}:2"])

    def _job(self, parts: dict[str, int], artifacts: list[str]) -> Any:
        result = {"parts": parts, "artifacts": artifacts}
        self.made = {"id": 7, "state": self.state, "result": result}
        return self.made

    def job(self, number: int) -> Any:
        return self.made


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(data_shape, "open_client", lambda server, home: made)
    return made


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main.invoke(["data", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_a_split_sends_shares_in_order_and_tells_each_part(
    stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = "train=0.9,test=0.1"
    out = run(capsys, "split", "news", "--parts", parts, "--stratify", "label", "--seed", "3")
    ((ref, shares, options),) = stub.sent
    assert ref == "news" and list(shares.items()) == [("train", 0.9), ("test", 0.1)]
    assert options == {"by": None, "stratify": "label", "time": None, "name": None, "seed": 3}
    assert "train: 1200 rows" in out and "news-test:1 is ready" in out
    run(capsys, "split", "news")
    assert stub.sent[1][1] == {"train": 0.8, "validation": 0.1, "test": 0.1}


def test_a_mix_sends_weights(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, "mix", "a=0.7", "b:2=3", "--rows", "10", "--name", "both", "--repeat")
    options = {"rows": 10, "repeat": True, "seed": 0}
    assert stub.sent == [("both", {"a": 0.7, "b:2": 3.0}, options)]
    assert "a:1: 3 rows" in out and "both:2 is ready" in out
    stub.state = "queued"
    assert "job 7: `llmos jobs logs 7 -f`" in run(capsys, "mix", "a=1", "--name", "x", "-d")
    told = json.loads(run(capsys, "mix", "a=1", "--name", "x", "-d", "--json"))
    assert told["id"] == 7


@pytest.mark.parametrize("given", ["a", "a=x", "=1", "a=0", "a=-1", "a=1,a=2", "a=nan"])
def test_what_is_no_share_is_refused(
    given: str, stub: Stub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.invoke(["data", "split", "news", "--parts", given]) == 2
    assert "name=number" in capsys.readouterr().err and not stub.sent
