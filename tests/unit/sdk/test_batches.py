"""Batches through the SDK, against a server that is a Python function."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmos.errors import ConflictError, DataError, UnreachableError
from llmos.sdk.client import Client

ClientOf = Callable[..., Client]


def test_a_file_is_sent_as_a_form_and_its_progress_told(
    client_of: ClientOf, tmp_path: Path
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 200_000)
    told: list[tuple[str, int, int]] = []

    def server(request: httpx.Request) -> httpx.Response:
        assert (request.method, request.url.path) == ("POST", "/v1/files")
        body = request.read()
        assert int(request.headers["content-length"]) == len(body)
        assert b'name="purpose"\r\n\r\nbatch' in body
        assert b'filename="in.jsonl"' in body
        assert body.count(b"x") >= 200_000
        return httpx.Response(200, json={"id": "file-1"})

    client = client_of(server)
    assert client.upload_batch_file(path, lambda *args: told.append(args)) == {"id": "file-1"}
    assert told[-1] == ("in.jsonl", 200_000, 200_000)
    assert len(told) > 1


def test_a_file_that_is_not_there_is_not_sent(client_of: ClientOf, tmp_path: Path) -> None:
    client = client_of(lambda request: pytest.fail("nothing is sent"))
    with pytest.raises(DataError, match="cannot be read"):
        client.upload_batch_file(tmp_path / "none.jsonl")


def test_each_method_is_one_request(client_of: ClientOf) -> None:
    seen: list[tuple[str, str, Any]] = []

    def server(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        seen.append((request.method, request.url.raw_path.decode(), body))
        return httpx.Response(200, json={"data": []})

    client = client_of(server)
    client.create_batch("file-1", "/v1/embeddings", {"a": "b"})
    client.batches(5, after="batch_1")
    client.batch("a/b")
    client.cancel_batch("batch_1")
    client.files("batch")
    client.delete_file("file-1")
    body = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    assert seen == [
        ("POST", "/v1/batches", {**body, "metadata": {"a": "b"}}),
        ("GET", "/v1/batches?limit=5&after=batch_1", None),
        ("GET", "/v1/batches/a%2Fb", None),
        ("POST", "/v1/batches/batch_1/cancel", None),
        ("GET", "/v1/files?purpose=batch", None),
        ("DELETE", "/v1/files/file-1", None),
    ]


def test_a_download_is_there_whole_or_not_at_all(client_of: ClientOf, tmp_path: Path) -> None:
    client = client_of(lambda request: httpx.Response(200, content=b"abc"))
    target = tmp_path / "out.jsonl"
    assert client.download_file("file-1", target) == target
    assert target.read_bytes() == b"abc"
    with pytest.raises(ConflictError, match="exists already"):
        client.download_file("file-1", target)

    def breaks() -> Any:
        yield b"a"
        raise httpx.ReadError("gone")

    headers = {"Content-Length": "3"}
    client = client_of(lambda request: httpx.Response(200, content=breaks(), headers=headers))
    with pytest.raises(UnreachableError):
        client.download_file("file-1", tmp_path / "other.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_batch_is_followed_to_its_end_across_a_restart(client_of: ClientOf) -> None:
    states: list[dict[str, Any] | None] = [
        {"status": "validating"},
        {"status": "validating"},
        None,
        {"status": "in_progress"},
        {"status": "completed"},
    ]

    def server(request: httpx.Request) -> httpx.Response:
        state = states.pop(0)
        if state is None:
            raise httpx.ConnectError("restarting")
        return httpx.Response(200, json=state)

    seen = [batch["status"] for batch in client_of(server).follow_batch("batch_1")]
    assert seen == ["validating", "in_progress", "completed"]


def test_a_server_that_stays_away_is_not_waited_for_for_ever(client_of: ClientOf) -> None:
    def server(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone")

    with pytest.raises(UnreachableError):
        list(client_of(server).follow_batch("batch_1"))
