from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmos.errors import (
    ConflictError,
    CorruptBlobError,
    DataError,
    InvalidModelError,
    InvalidRequestError,
)
from llmos.sdk.client import Client
from llmos.sdk.transfer import local_data_paths

ClientOf = Callable[..., Client]


MANIFEST = {"task": "generate"}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Store:
    """The blob routes of a server."""

    def __init__(self, **files: bytes) -> None:
        self.blobs: dict[str, bytes] = {}
        self.files = files
        self.posted: list[tuple[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if request.method == "HEAD":
            return httpx.Response(200 if path.rsplit("/", 1)[1] in self.blobs else 404)
        if path == "/api/v1/blobs":
            data = request.read()
            self.blobs[digest_of(data)] = data
            return httpx.Response(201, json={"digest": digest_of(data), "size": len(data)})
        if "/files/" in path:
            return httpx.Response(200, content=self.files[path.rsplit("/", 1)[1]])
        if path.endswith("/plan"):
            names = json.loads(request.content)["filenames"]
            kept = [name for name in names if name.endswith(".json")]
            return httpx.Response(200, json={"kept": kept, "skipped": []})
        if request.method == "POST":
            self.posted.append((path, json.loads(request.content)))
            return httpx.Response(202, json={"id": 1})
        entries = {n: {"digest": digest_of(d), "size": len(d)} for n, d in self.files.items()}
        return httpx.Response(200, json={"ref": "m:1", "files": entries, "manifest": MANIFEST})


def test_a_file_is_sent_once(client_of: ClientOf, tmp_path: Path) -> None:
    store, seen = Store(), []
    client = client_of(store)
    data = b"x" * (2**20 + 5)
    (tmp_path / "f").write_bytes(data)
    expected = {"digest": digest_of(data), "size": len(data)}
    assert client.upload(tmp_path / "f", lambda *at: seen.append(at)) == expected
    assert seen == [("f", 2**20, len(data)), ("f", len(data), len(data))]
    store.blobs[digest_of(data)] = b"kept"
    assert client.upload(tmp_path / "f") == expected
    assert store.blobs[digest_of(data)] == b"kept"


def test_an_empty_file_can_be_sent(client_of: ClientOf, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    assert client_of(Store()).upload(tmp_path / "f")["size"] == 0


def test_what_is_no_file_is_said_so(client_of: ClientOf, tmp_path: Path) -> None:
    client = client_of(Store())
    with pytest.raises(DataError, match="no file"):
        client.upload(tmp_path / "missing")
    with pytest.raises(DataError, match="not a file"):
        client.upload(tmp_path)


def test_an_upload_that_arrives_changed_is_refused(client_of: ClientOf, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"data")

    def handler(request: httpx.Request) -> httpx.Response:
        if request.method == "HEAD":
            return httpx.Response(404)
        request.read()
        return httpx.Response(201, json={"digest": digest_of(b"other"), "size": 4})

    with pytest.raises(CorruptBlobError):
        client_of(handler).upload(tmp_path / "f")


def test_importing_sends_the_files_the_server_wants(client_of: ClientOf, tmp_path: Path) -> None:
    store = Store()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_text("no")
    (tmp_path / "sub").mkdir()
    assert client_of(store).import_model(tmp_path, "mine") == {"id": 1}
    files = {"config.json": digest_of(b"{}")}
    assert store.posted == [("/api/v1/models/import", {"name": "mine", "files": files})]
    assert list(store.blobs) == [digest_of(b"{}")]


def test_what_sentence_transformers_keeps_in_a_folder_goes_along_and_comes_back_there(
    client_of: ClientOf, tmp_path: Path
) -> None:
    store, folder = Store(), tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{1}")
    client_of(store).import_model(folder, "mine", task="embed")
    kept = "1_Pooling--config.json"
    assert store.posted[0][1]["files"][kept] == digest_of(b"{1}")
    assert store.posted[0][1]["task"] == "embed"
    exported = client_of(Store(**{kept: b"{1}"})).export_model("m", tmp_path / "out")
    assert (exported / "1_Pooling" / "config.json").read_bytes() == b"{1}"


def test_a_missing_directory_is_no_model(client_of: ClientOf, tmp_path: Path) -> None:
    with pytest.raises(InvalidModelError, match="no directory"):
        client_of(Store()).import_model(tmp_path / "missing", "mine")


def test_training_sends_local_data_only(client_of: ClientOf, tmp_path: Path) -> None:
    store = Store()
    path = tmp_path / "text.txt"
    path.write_text("words")
    recipe = {"name": "r", "data": {"path": str(path)}}
    seen: list[Any] = []
    client_of(store).train(recipe, "mine", on_progress=lambda *at: seen.append(at))
    assert seen == [("text.txt", 5, 5)]
    body = store.posted[0][1]
    params = {"recipe": recipe, "name": "mine", "data": {str(path): digest_of(b"words")}}
    assert (body["kind"], body["name"], body["params"]) == ("train", "mine", params)


@pytest.mark.parametrize(
    ("data", "paths"),
    [
        ({"path": "a.txt"}, ["a.txt"]),
        ({"path": "a.jsonl", "validation_path": "b.jsonl"}, ["a.jsonl", "b.jsonl"]),
        ({"path": "starter:chat"}, []),
        ({"path": ""}, []),
        ({"path": 5}, []),
        (None, []),
    ],
)
def test_which_data_is_local(data: Any, paths: list[str]) -> None:
    assert local_data_paths({"data": data}) == paths


def test_word_vectors_are_local_where_they_are_a_file() -> None:
    recipe: dict[str, Any] = {"data": {"path": "a.tsv"}, "model": {"vectors": "glove.100d.txt"}}
    assert local_data_paths(recipe) == ["a.tsv", "glove.100d.txt"]
    recipe["model"]["vectors"] = "glove:2"
    assert local_data_paths(recipe) == ["a.tsv"]


def test_old_data_is_local_too_and_feedback_is_not() -> None:
    recipe = {"data": {"path": "feedback:helper"}, "replay": {"path": "old.jsonl"}}
    assert local_data_paths(recipe) == ["old.jsonl"]


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"steps": float("inf")}, r"recipe\.steps has inf"),
        ({"card": {"limits": datetime.date(2024, 1, 1)}}, r"recipe\.card\.limits has datetime"),
        ({"betas": [0.9, float("nan")]}, r"recipe\.betas\.1 has nan"),
        ({5: "x"}, "the key 5"),
    ],
)
def test_a_recipe_that_json_cannot_hold_is_refused_before_any_upload(
    client_of: ClientOf, tmp_path: Path, part: dict[Any, Any], says: str
) -> None:
    store = Store()
    (tmp_path / "text.txt").write_text("words")
    recipe = {"data": {"path": str(tmp_path / "text.txt")}, **part}
    with pytest.raises(InvalidRequestError, match=says):
        client_of(store).train(recipe, "mine")
    assert (store.blobs, store.posted) == ({}, [])


def test_export_writes_a_whole_directory(client_of: ClientOf, tmp_path: Path) -> None:
    client = client_of(Store(**{"config.json": b"{}", "model.safetensors": b"w" * 9}))
    target = client.export_model("m", tmp_path / "a" / "out")
    found = {path.name: path.read_bytes() for path in target.iterdir()}
    assert json.loads(found.pop("manifest.json"))["task"] == "generate"
    assert found == {"config.json": b"{}", "model.safetensors": b"w" * 9}
    assert [path.name for path in target.parent.iterdir()] == ["out"]
    with pytest.raises(ConflictError):
        client.export_model("m", target)


def test_a_damaged_export_leaves_nothing(client_of: ClientOf, tmp_path: Path) -> None:
    store = Store(**{"config.json": b"{}"})

    def handler(request: httpx.Request) -> httpx.Response:
        answer = store(request)
        return httpx.Response(200, content=b"bad") if "/files/" in request.url.path else answer

    with pytest.raises(CorruptBlobError):
        client_of(handler).export_model("m", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a\\..\\x"])
def test_a_servers_file_names_lead_nowhere_else(
    client_of: ClientOf, tmp_path: Path, name: str
) -> None:
    client = client_of(Store(**{name: b"x"}))
    with pytest.raises(InvalidModelError, match="unsafe name"):
        client.export_model("m", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
