from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmos.errors import DataError, InvalidRequestError, PipelineError, UnreachableError
from llmos.sdk.client import Client

ClientOf = Callable[[Callable[[httpx.Request], httpx.Response]], Client]
RUN: dict[str, Any] = {"id": 3, "state": "running", "steps": []}


def pipeline(path: str) -> dict[str, Any]:
    train = {"kind": "train", "params": {"name": "m", "recipe": {"data": {"path": path}}}}
    return {"name": "p", "steps": {"train": train, "other": {"kind": "k", "params": {"a": 1}}}}


def test_the_data_of_recipes_is_uploaded_before_the_run_starts(
    client_of: ClientOf, tmp_path: Path
) -> None:
    data = tmp_path / "data.txt"
    data.write_text("words")
    digest = "sha256:" + hashlib.sha256(b"words").hexdigest()
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path))
        if request.method == "HEAD":
            return httpx.Response(404)
        if request.url.path == "/api/v1/blobs":
            assert request.read() == b"words"
            return httpx.Response(200, json={"digest": digest, "size": 5})
        sent = json.loads(request.read())["pipeline"]
        assert sent["steps"]["train"]["params"]["data"] == {str(data): digest}
        assert sent["steps"]["judge"]["params"] == {"data": {str(data): digest}}
        assert sent["steps"]["other"] == {"kind": "k", "params": {"a": 1}}
        return httpx.Response(202, json=RUN)

    given = pipeline(str(data))
    given["steps"]["judge"] = {"kind": "judge", "params": {"data": str(data)}}
    client = client_of(answer)
    assert client.run_pipeline(given) == RUN
    assert client.check_pipeline(given) == RUN
    assert "data" not in given["steps"]["train"]["params"]
    assert [path for _, path in asked[4::5]] == ["/api/v1/pipelines", "/api/v1/pipelines/check"]


@pytest.mark.parametrize("path", ["starter:tales", "${split.model}"])
def test_what_is_no_local_file_is_not_uploaded(client_of: ClientOf, path: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.read())["pipeline"] == pipeline(path)
        return httpx.Response(202, json=RUN)

    assert client_of(answer).run_pipeline(pipeline(path)) == RUN


def test_a_pipeline_with_a_missing_file_or_what_json_cannot_hold_is_not_sent(
    client_of: ClientOf,
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(request)

    client = client_of(answer)
    with pytest.raises(DataError, match=r"gone\.txt"):
        client.run_pipeline(pipeline("gone.txt"))
    with pytest.raises(InvalidRequestError, match=r"pipeline\.steps\.a"):
        client.run_pipeline({"name": "p", "steps": {"a": {"params": float("nan")}}})


@pytest.mark.parametrize("steps", [None, 5, {"a": 5}, {"a": {"params": 5}}, {"a": {}}])
def test_what_is_badly_made_is_the_servers_to_refuse(client_of: ClientOf, steps: Any) -> None:
    error = {"message": "line 2: no", "type": "t", "code": "invalid_pipeline", "param": "steps"}
    client = client_of(lambda _: httpx.Response(400, json={"error": error}))
    with pytest.raises(PipelineError, match="line 2: no"):
        client.run_pipeline({"name": "p", "steps": steps})


def test_a_run_is_followed_by_its_changes_until_it_has_ended(client_of: ClientOf) -> None:
    states = iter(["running", "running", "running", "failed"])
    ids = iter([1, 1, 2, 2])
    client = client_of(
        lambda _: httpx.Response(200, json=RUN | {"state": next(states), "jobs": next(ids)})
    )
    seen = [(run["state"], run["jobs"]) for run in client.follow_pipeline(3)]
    assert seen == [("running", 1), ("running", 2), ("failed", 2)]


def test_a_server_that_goes_away_for_a_while_is_waited_for(client_of: ClientOf) -> None:
    answers = iter(["running", None, None, "succeeded"])

    def answer(_: httpx.Request) -> httpx.Response:
        if (state := next(answers, None)) is None:
            raise httpx.ConnectError("gone")
        return httpx.Response(200, json=RUN | {"state": state})

    client = client_of(answer)
    assert [run["state"] for run in client.follow_pipeline(3)] == ["running", "succeeded"]
    answers = iter(["running"])
    following = client.follow_pipeline(3)
    assert next(following)["state"] == "running"
    with pytest.raises(UnreachableError):
        next(following)
    with pytest.raises(UnreachableError):
        next(client.follow_pipeline(3))


def test_runs_are_listed_read_cancelled_and_retried(client_of: ClientOf) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.raw_path.decode()))
        return httpx.Response(200, json={"data": [RUN]} | RUN)

    client = client_of(answer)
    assert client.pipelines(limit=5, before=9) == [RUN]
    for act in (client.pipeline, client.cancel_pipeline, client.retry_pipeline):
        assert act(3)["id"] == 3
    assert asked == [
        ("GET", "/api/v1/pipelines?limit=5&before=9"),
        ("GET", "/api/v1/pipelines/3"),
        ("POST", "/api/v1/pipelines/3/cancel"),
        ("POST", "/api/v1/pipelines/3/retry"),
    ]
