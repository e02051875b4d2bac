"""`llmos usage` and `llmos quotas` against a stub of the SDK's client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmos.cli import main, usage

ROW: dict[str, Any] = {
    "day": "2026-11-22",
    "owner": "alice",
    "model": "talker",
    "requests": 12,
    "failed": 1,
    "prompt_tokens": 4_500,
    "cached_tokens": 0,
    "completion_tokens": 1_200_000,
    "jobs": 0,
    "compute_s": 61.25,
    "joules": None,
    "joules_per_1k_tokens": None,
}
JOBS = ROW | {"model": "", "jobs": 2, "joules": 7.2e6, "joules_per_1k_tokens": 41.26}
NO_LIMITS = {
    "requests_per_s": None,
    "concurrency": None,
    "tokens_per_day": None,
    "compute_s_per_day": None,
    "stored_bytes": None,
    "queue_depth": None,
}


class StubClient:
    """Answers as the server would and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.rows = {"alice": NO_LIMITS | {"concurrency": 3, "stored_bytes": 10**9}}

    def __enter__(self) -> StubClient:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def usage(self, first: str, **told: Any) -> list[dict[str, Any]]:
        self.asked.append((first, told))
        return [ROW, JOBS]

    def usage_csv(self, first: str, **told: Any) -> str:
        return "day,owner\n2026-11-22,alice\n"

    def quotas(self) -> list[dict[str, Any]]:
        return [{"owner": owner, "limits": limits} for owner, limits in self.rows.items()]

    def quota(self, owner: str) -> dict[str, Any]:
        limits = self.rows.get(owner, NO_LIMITS)
        set_for = owner if owner in self.rows else None
        used = {"concurrency": 1, "compute_s_per_day": 1.2345}
        return {"owner": owner, "limits": limits, "set_for": set_for, "used": used}

    def set_quota(self, owner: str, limits: dict[str, Any]) -> dict[str, Any]:
        self.rows[owner] = NO_LIMITS | limits
        return self.quota(owner)

    def remove_quota(self, owner: str) -> dict[str, Any]:
        del self.rows[owner]
        return self.quota(owner)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> StubClient:
    stub = StubClient()
    monkeypatch.setattr(usage, "open_client", lambda *_: stub)
    return stub


def run(*arguments: str) -> int:
    return main.invoke(list(arguments))


def test_usage_is_a_table_with_dashes_for_what_nobody_knows(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("usage", "--days", "1") == 0
    heading, talker, jobs = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["DAY", "OWNER", "MODEL"]
    assert talker.split()[2:] == ["talker", "12", "1", "4.5K", "1.2M", "0", "61.2", "s", "-", "-"]
    assert jobs.split()[2] == "(jobs)"
    assert jobs.split()[-3:] == ["2.00", "kWh", "41.3"]


def test_usage_is_told_apart_as_asked(client: StubClient) -> None:
    assert run("usage", "--by", "owner, day", "--owner", "alice") == 0
    assert client.asked[0][1] == {"owner": "alice", "group_by": ["owner", "day"]}


def test_usage_is_csv_or_json_for_programs(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("usage", "--csv") == 0
    assert capsys.readouterr().out == "day,owner\n2026-11-22,alice\n"
    assert run("usage", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [ROW, JOBS]


def test_quotas_are_listed_and_shown_beside_what_is_used(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quotas") == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        *("alice", "-", "3", "-", "-", "1.0", "GB", "-"),
    ]
    assert run("quotas", "show", "alice") == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["concurrency", "3", "1"] in shown
    assert ["compute_s_per_day", "-", "1.2"] in shown
    assert run("quotas", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["owner"] == "alice"


def test_set_changes_the_limits_named_and_no_others(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run("quotas", "set", "alice", "--tokens-per-day", "1000000", "--concurrency", "none") == 0
    )
    assert client.rows["alice"] == NO_LIMITS | {"stored_bytes": 10**9, "tokens_per_day": 10**6}
    assert capsys.readouterr().out == "alice: tokens_per_day 1000000, stored_bytes 1000000000\n"
    assert run("quotas", "set", "*", "--requests-per-s", "0.5") == 0
    assert client.rows["*"] == NO_LIMITS | {"requests_per_s": 0.5}


def test_an_owners_own_quota_does_not_begin_with_everybodys(client: StubClient) -> None:
    client.rows["*"] = NO_LIMITS | {"concurrency": 1}
    assert run("quotas", "set", "bob", "--queue-depth", "5") == 0
    assert client.rows["bob"] == NO_LIMITS | {"queue_depth": 5}


@pytest.mark.parametrize("text", ["many", "nan", "inf", ""])
def test_a_limit_that_is_no_number_is_refused(
    client: StubClient, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    assert run("quotas", "set", "alice", "--tokens-per-day", text) == 2
    assert "--tokens-per-day must be a number" in capsys.readouterr().err


def test_set_without_a_limit_says_what_to_do(
    client: StubClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("quotas", "set", "alice") == 2
    assert "--help" in capsys.readouterr().err


def test_rm_takes_a_quota_away(client: StubClient) -> None:
    assert run("quotas", "rm", "alice") == 0
    assert client.rows == {}
