"""Searches of hyper-parameters on a real server: trials are trained, told, and end with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.echoserver import EchoServer
from tests.unit.training.tiny import make_recipe

from llmos.apps.search_jobs import trial_rows
from llmos.errors import InvalidRequestError, LlmosError
from llmos.sdk.client import Client
from llmos.training.search_plot import draw_search

RATE = "optimizer.learning_rate"
FINAL = {"succeeded", "failed", "cancelled"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    server = EchoServer(tmp_path_factory.mktemp("home"))
    with Client(server.url, server.key) as made:
        yield made
    server.stop()


def until(look: Callable[[], Any], is_wanted: Callable[[Any], bool], within_s: float = 180) -> Any:
    """Look until something is as wanted; what crosses processes has no event to wait for."""
    deadline = time.monotonic() + within_s
    while not is_wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    return seen


def rows_of(client: Client, number: int) -> list[dict[str, Any]]:
    return trial_rows(client.job(number), client.jobs(limit=1000))


def test_half_of_the_trials_go_on_and_one_that_diverges_is_told(
    client: Client, tmp_path: Path
) -> None:
    section = {
        "method": "halving",
        "trials": 4,
        "eta": 4,
        "parameters": {RATE: [1e-3, 3e-3, 1e30], "seed": [0, 1, 2]},
        "seed": 3,
    }
    recipe = make_recipe("generate", steps=8)
    job = client.search(recipe, section, "tuned", "best")
    done = until(lambda: client.job(job["id"]), lambda seen: seen["state"] in FINAL)
    assert done["state"] == "succeeded", done["error"]
    result = done["result"]
    rows = rows_of(client, job["id"])
    assert [row["rung"] for row in rows] == [1, 0, 0, 0, 0]
    assert sorted(rows, key=lambda row: (row["rung"], row["trial"])) == result["trials"]
    assert {row["steps"] for row in rows if row["rung"] == 0} == {2}
    diverged = [row for row in rows if row["settings"][RATE] == 1e30]
    assert diverged and all(row["state"] == "failed" for row in diverged), "the draws have some"
    assert "learning_rate" in diverged[0]["error"]
    best = client.model("tuned@best")
    assert best["ref"] == result["best"]["version"] == rows[0]["version"]
    assert best["manifest"]["recipe"]["steps"] == 8
    assert best["manifest"]["metrics"]["validation_loss"] == result["best"]["value"]
    assert client.job(rows[0]["job"])["kind"] == "train"
    draw_search(tmp_path / "search.png", rows, done["params"]["search"])
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")


def test_a_search_that_is_cancelled_ends_its_trials(client: Client) -> None:
    recipe = make_recipe("generate", steps=100_000)
    section = {"parameters": {"seed": [0, 1, 2]}}
    job = client.search(recipe, section, "endless")
    until(lambda: rows_of(client, job["id"]), lambda rows: len(rows) == 3)
    client.cancel_job(job["id"])
    ended = until(
        lambda: rows_of(client, job["id"]), lambda rows: all(r["state"] in FINAL for r in rows)
    )
    assert {row["state"] for row in ended} == {"cancelled"}
    assert client.job(job["id"])["state"] == "cancelled"


def test_what_could_not_be_trained_is_refused_at_once(client: Client) -> None:
    before = len(client.jobs(limit=1000))
    with pytest.raises(InvalidRequestError, match=r"unknown recipe key optimizer\.rate"):
        client.search(make_recipe("generate"), {"parameters": {"optimizer.rate": [1]}}, "x")
    based = make_recipe("generate", model={"base": "nobody"}, tokenizer={"kind": "base"})
    with pytest.raises(LlmosError, match="no model 'nobody'"):
        client.search(based, {"parameters": {"seed": [1]}}, "x")
    assert len(client.jobs(limit=1000)) == before
