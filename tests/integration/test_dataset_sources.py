"""Datasets of what lies elsewhere, made by a real server with workers of its own: the web, a hub, a
bucket, a database of the user's, feedback; and nobody reads by the rights of another.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.echoserver import EchoServer
from tests.hubserver import Hub, Repository, running_hub
from tests.siteserver import Reply, Site, running_site

from llmos.errors import (
    DataError,
    InvalidRequestError,
    JobFailedError,
    LlmosError,
    PermissionDeniedError,
)
from llmos.sdk.client import Client

ROWS = b'{"text": "one"}\n{"text": "\xe4\xba\x8c"}\n'
TEXT = "A page about {}. " + "It is long enough to be taken for the content of a page. " * 4


CHAT = "/v1/chat/completions"


@dataclass
class World:
    """A server, and what lies around it."""

    server: EchoServer
    client: Client
    site: Site
    hub: Hub

    def rows(self, job: dict[str, Any]) -> list[dict[str, Any]]:
        (ref,) = self.client.wait(job["id"])["result"]["artifacts"]
        return self.client.dataset_head(ref, 100)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = tmp_path_factory.mktemp("home")
    with running_site() as site, running_hub() as hub:
        environ = {"LLMOS_ALLOW_PRIVATE_WEBHOOKS": "1", "HF_ENDPOINT": hub.url}
        environ |= {"HF_HOME": str(home / "hf"), "LLMOS_S3_BUCKETS": "corpora"}
        server = EchoServer(home, environ)
        try:
            with Client(server.url, server.key) as client:
                yield World(server, client, site, hub)
        finally:
            server.stop()


def test_a_file_of_the_web_becomes_a_dataset(world: World) -> None:
    world.site.pages["/rows.jsonl"] = Reply(ROWS, kind="application/x-ndjson")
    job = world.client.add_dataset(f"{world.site.url}/rows.jsonl", "rows", license="CC0-1.0")
    assert [row["text"] for row in world.rows(job)] == ["one", "二"]
    version = world.client.dataset("rows")
    assert version["license"] == "CC0-1.0"
    assert version["manifest"]["source"]["from"] == f"{world.site.url}/rows.jsonl"
    assert f"{world.site.url}/rows.jsonl" in world.client.dataset_card("rows")
    assert version["inputs"] == [version["manifest"]["source"]["files"][0]["digest"]]
    events = {(one["action"], one["object"]) for one in world.client.audit(20)}
    assert ("datasets.create", version["ref"]) in events


def test_a_dataset_of_a_hub_becomes_one(world: World) -> None:
    files = {"README.md": b"# rows\n", "en/train.jsonl": ROWS, "en/test.jsonl": b'{"text": "t"}'}
    world.hub.repositories["datasets/owner/rows"] = Repository(files)
    job = world.client.add_dataset("hf://owner/rows/en/train", "hub-rows")
    assert [row["text"] for row in world.rows(job)] == ["one", "二"]


def test_a_folder_like_one_of_a_hub_is_read_here(world: World, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# rows\n")
    (tmp_path / "train.jsonl").write_bytes(ROWS)
    (tmp_path / "test.jsonl").write_bytes(b'{"text": "t"}')
    job = world.client.add_dataset(f"hf://{tmp_path}/train", "folder-rows")
    assert [row["id"] for row in world.rows(job)] == ["train.jsonl:1", "train.jsonl:2"]


def test_a_site_becomes_a_dataset(world: World) -> None:
    world.site.page("/", "Home", TEXT.format("home"), ["/a", "/b"])
    world.site.page("/a", "A", TEXT.format("a"), ["/c"])
    world.site.page("/b", "B", TEXT.format("b"), [])
    world.site.page("/c", "C", TEXT.format("c"), [])
    job = world.client.crawl(f"{world.site.url}/", "pages", depth=1, pages=10, rate=10)
    rows = world.rows(job)
    assert [row["title"] for row in rows] == ["Home", "A", "B"]
    assert set(rows[0]) >= {"id", "url", "title", "text"}
    assert world.client.dataset("pages")["manifest"]["source"]["pages"] == {"kept": 3}


def test_a_query_is_run_by_the_client_and_its_password_stays_there(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "posts.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE posts (text, label)")
        made.executemany("INSERT INTO posts VALUES (?, ?)", [("好", "zh"), ("good", "en")])
    made.close()
    job = world.client.add_query("SELECT text, label FROM posts", f"sqlite:///{path}", "posts")
    assert [row["label"] for row in world.rows(job)] == ["zh", "en"]
    assert "SELECT text" in world.client.dataset("posts")["manifest"]["source"]["from"]
    with pytest.raises(DataError, match="only reads"):
        writes = "WITH x AS (SELECT 1) DELETE FROM posts"
        world.client.add_query(writes, f"sqlite:///{path}", "posts")


def test_feedback_becomes_a_dataset_of_whoever_gave_it(world: World) -> None:
    turns = [{"role": "user", "content": "你是谁？"}]
    row = {"messages": turns, "chosen": "我是小林。", "rejected": "我不知道。"}
    world.client.teach("talker", [row])
    (found,) = world.rows(world.client.add_dataset("feedback:talker", "lessons"))
    assert found["messages"][-1] == {"role": "assistant", "content": "我是小林。"}
    job = world.client.add_dataset("feedback:talker", "pairs", reads="preferences")
    (found,) = world.rows(job)
    assert (found["chosen"], found["rejected"]) == ("我是小林。", "我不知道。")
    assert world.client.dataset("pairs")["manifest"]["source"]["from"] == "feedback:talker"
    key = world.client.create_key("carol", role="user")["key"]
    with (
        Client(world.server.url, key) as carol,
        pytest.raises(DataError, match="llmos answers on"),
    ):
        carol.add_dataset("feedback:talker", "stolen")
    limited = world.client.create_key(
        "dave", role="user", actions=["datasets.write", "jobs.write", "jobs.read"]
    )["key"]
    with Client(world.server.url, limited) as dave, pytest.raises(PermissionDeniedError):
        dave.add_dataset("feedback:talker", "stolen")


def test_kept_conversations_become_a_dataset_of_whoever_had_them(world: World) -> None:
    turns = [{"role": "user", "content": "你好 hello"}]
    with pytest.raises(DataError, match="no kept conversations of talker"):
        world.client.add_dataset("answers:talker", "talks")
    body = {"model": "talker", "messages": turns}
    world.client.transport.json("POST", CHAT, json=body)
    world.client.keep_answers(True)
    world.client.transport.json("POST", CHAT, json=body)
    (found,) = world.rows(world.client.add_dataset("answers:talker", "talks"))
    assert found["messages"] == [*turns, {"role": "assistant", "content": "你好 hello"}]
    assert found["model"] == "talker:1" and found["finish_reason"] == "stop"
    key = world.client.create_key("erin", role="user")["key"]
    with Client(world.server.url, key) as erin, pytest.raises(DataError, match="no kept"):
        erin.add_dataset("answers:talker", "stolen")
    world.client.keep_answers(False)
    with pytest.raises(DataError, match="no kept conversations"):
        world.client.add_dataset("answers:talker", "talks")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("s3://secrets/key.jsonl", "in no bucket that this server may read"),
        ("s3://corpora-of-others/x.jsonl", "in no bucket that this server may read"),
    ],
)
def test_a_bucket_is_open_only_where_it_was_named(world: World, path: str, said: str) -> None:
    job = world.client.add_dataset(path, "x")
    with pytest.raises(JobFailedError, match=said):
        world.client.wait(job["id"])


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/etc/passwd", "sqlite:////etc/x.db", "ftp://x.example/a.csv"]
)
def test_the_server_opens_none_of_its_own_files(world: World, url: str) -> None:
    body = {"name": "x", "url": url}
    for ask in (
        lambda: world.client.transport.json("POST", "/api/v1/datasets", json=body),
        lambda: world.client.transport.json("POST", "/api/v1/datasets/crawl", json=body),
        lambda: world.client.submit_job("data_add", body, "x"),
    ):
        with pytest.raises(InvalidRequestError):
            ask()


def test_a_key_that_may_not_write_fetches_nothing(world: World) -> None:
    key = world.client.create_key("reader", role="admin", actions=["datasets.read"])["key"]
    asked = len(world.site.requests)
    with Client(world.server.url, key) as reader:
        for ask in (
            lambda: reader.add_dataset(f"{world.site.url}/rows.jsonl", "x"),
            lambda: reader.crawl(f"{world.site.url}/", "x"),
        ):
            with pytest.raises(LlmosError, match="limited to other actions"):
                ask()
    assert len(world.site.requests) == asked
