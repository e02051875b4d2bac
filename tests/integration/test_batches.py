"""Batches by the unmodified `openai` client against a real server, killed where it hurts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from tests.echoserver import EchoServer

from llmos.kernel.residency import ENGINE_MODULE
from llmos.kernel.workers import WORKER_MODULE
from llmos.sdk.client import Client
from llmos.storage.database import Database
from llmos.storage.schema import batches

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    started = EchoServer(tmp_path_factory.mktemp("home"))
    yield started
    started.stop()


def client_of(server: EchoServer, key: str | None = None) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key or server.key, max_retries=0)


@pytest.fixture(scope="module")
def ai(server: EchoServer) -> Iterator[openai.OpenAI]:
    with client_of(server) as made:
        yield made


def chat(text: str, model: str = "talker") -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}]}


def rows(bodies: dict[str, dict[str, Any]], url: str = CHAT) -> bytes:
    made = (
        {"custom_id": custom_id, "method": "POST", "url": url, "body": body}
        for custom_id, body in bodies.items()
    )
    return b"".join(json.dumps(row).encode() + b"\n" for row in made)


def begin(ai: openai.OpenAI, content: bytes, endpoint: Any = CHAT) -> Any:
    file = ai.files.create(file=("in.jsonl", content), purpose="batch")
    return ai.batches.create(
        input_file_id=file.id,
        endpoint=endpoint,
        completion_window="24h",
        metadata={"test": "yes"},
    )


def until(look: Callable[[], Any], is_wanted: Callable[[Any], bool], within_s: float = 60) -> Any:
    """Look until something is as wanted; what crosses processes has no event to wait for."""
    deadline = time.monotonic() + within_s
    while not is_wanted(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    return seen


def ended(ai: openai.OpenAI, batch_id: str) -> Any:
    final = {"completed", "failed", "expired", "cancelled"}
    return until(lambda: ai.batches.retrieve(batch_id), lambda batch: batch.status in final)


def lines(ai: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    if file_id is None:
        return []
    return [json.loads(line) for line in ai.files.content(file_id).text.splitlines()]


def test_a_chat_batch_from_upload_to_answers(ai: openai.OpenAI) -> None:
    texts = {f"row-{number}": f"say {number}" for number in range(100)}
    content = rows({custom_id: chat(text) for custom_id, text in texts.items()})
    batch = ended(ai, begin(ai, content).id)
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (100, 0)
    assert batch.metadata == {"test": "yes"}
    assert batch.error_file_id is None
    output = lines(ai, batch.output_file_id)
    answers = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in output
    }
    assert answers == texts
    assert len(output) == 100
    assert {line["response"]["status_code"] for line in output} == {200}
    assert ai.files.retrieve(batch.output_file_id).purpose == "batch_output"
    assert batch.id in {listed.id for listed in ai.batches.list(limit=1)}, "pages are gone through"
    assert ai.files.delete(batch.input_file_id).deleted


@pytest.mark.parametrize(
    ("endpoint", "body", "read"),
    [
        (
            COMPLETIONS,
            {"model": "writer", "prompt": "go on"},
            lambda answer: answer["choices"][0]["text"] == "go on",
        ),
        (
            EMBEDDINGS,
            {"model": "vectors", "input": ["a", "b"]},
            lambda answer: len(answer["data"]) == 2,
        ),
    ],
)
def test_the_other_endpoints(
    ai: openai.OpenAI, endpoint: str, body: dict[str, Any], read: Callable[[Any], bool]
) -> None:
    batch = ended(ai, begin(ai, rows({"a": body, "b": body}, endpoint), endpoint).id)
    output = lines(ai, batch.output_file_id)
    assert sorted(line["custom_id"] for line in output) == ["a", "b"]
    assert all(read(line["response"]["body"]) for line in output)


def test_a_row_that_fails_fails_alone(ai: openai.OpenAI) -> None:
    bad = chat("no") | {"temperature": 9}
    long = chat("x" * 5000)
    rushed = chat("now") | {"priority": "interactive"}
    content = rows({"good": chat("yes"), "bad": bad, "long": long, "rushed": rushed})
    batch = ended(ai, begin(ai, content).id)
    assert (batch.status, batch.request_counts.completed, batch.request_counts.failed) == (
        "completed",
        1,
        3,
    )
    assert [line["custom_id"] for line in lines(ai, batch.output_file_id)] == ["good"]
    errors = {line["custom_id"]: line["response"] for line in lines(ai, batch.error_file_id)}
    assert {key: error["status_code"] for key, error in errors.items()} == {
        "bad": 400,
        "long": 400,
        "rushed": 403,
    }
    assert errors["long"]["body"]["error"]["code"] == "context_length_exceeded"


def test_a_broken_file_is_refused_with_its_lines(ai: openai.OpenAI) -> None:
    content = rows({"a": chat("x")}) + b"broken\n"
    with pytest.raises(openai.BadRequestError, match="line 2: JSON is malformed"):
        begin(ai, content)


def numbered(count: int) -> dict[str, str]:
    return {str(number): f"row number {number}" for number in range(count)}


def slow_rows(texts: dict[str, str]) -> bytes:
    return rows({custom_id: chat(text, "slow") for custom_id, text in texts.items()})


def under_way(ai: openai.OpenAI, batch_id: str) -> Any:
    return until(
        lambda: ai.batches.retrieve(batch_id), lambda batch: batch.request_counts.completed > 0
    )


def test_a_cancelled_batch_ends_in_seconds_and_keeps_what_is_done(ai: openai.OpenAI) -> None:
    batch = begin(ai, slow_rows(numbered(2000)))
    under_way(ai, batch.id)
    assert ai.batches.cancel(batch.id).status == "cancelling"
    begun = time.monotonic()
    done = ended(ai, batch.id)
    assert time.monotonic() - begun < 5
    assert done.status == "cancelled"
    output, errors = lines(ai, done.output_file_id), lines(ai, done.error_file_id)
    assert len(output) == done.request_counts.completed > 0
    assert {line["error"]["code"] for line in errors} == {"batch_cancelled"}
    assert len({line["custom_id"] for line in [*output, *errors]}) == 2000
    assert len(output) + len(errors) == 2000


def test_a_batch_that_is_held_for_the_quota_is_cancelled_in_seconds_all_the_same(
    server: EchoServer, ai: openai.OpenAI
) -> None:
    with Client(server.url, server.key) as admin:
        key = admin.create_key("spender")["key"]
        with client_of(server, key) as spender:
            batch = begin(spender, slow_rows(numbered(2000)))
            under_way(spender, batch.id)
            admin.set_quota("spender", {"compute_s_per_day": 0})
            until(
                lambda: [job["held"] for job in admin.ps()["jobs"] if job["id"] == batch.job_id],
                lambda held: held == [["quota"]],
            )
            spender.batches.cancel(batch.id)
            begun = time.monotonic()
            done = ended(spender, batch.id)
    assert time.monotonic() - begun < 5
    assert done.status == "cancelled"
    assert done.request_counts.completed > 0


def test_a_batch_ends_soon_after_its_key_was_revoked(server: EchoServer, ai: openai.OpenAI) -> None:
    with Client(server.url, server.key) as admin:
        made = admin.create_key("leaky")
        with client_of(server, made["key"]) as leaky:
            batch = begin(leaky, slow_rows(numbered(2000)))
            under_way(ai, batch.id)
        admin.revoke_key(made["id"])
        begun = time.monotonic()
        done = ended(ai, batch.id)
        assert time.monotonic() - begun < 5
    errors = lines(ai, done.error_file_id)
    assert (done.status, len(errors)) == ("cancelled", 2000 - done.request_counts.completed)
    assert {line["error"]["code"] for line in errors} == {"invalid_api_key"}


def processes(server: EchoServer, module: str) -> list[psutil.Process]:
    """Return the server's child processes that run a module."""
    found = []
    for child in psutil.Process(server.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if module in child.cmdline():
                found.append(child)
    return found


def assert_each_once(ai: openai.OpenAI, batch: Any, texts: dict[str, str]) -> None:
    assert (batch.status, batch.request_counts.failed) == ("completed", 0)
    output = lines(ai, batch.output_file_id)
    assert len(output) == len(texts)
    said = {
        line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
        for line in output
    }
    assert said == texts


def test_a_killed_worker_or_engine_costs_no_row_and_doubles_none(
    server: EchoServer, ai: openai.OpenAI
) -> None:
    texts = numbered(600) | {"long": "and on " * 120}  # 8 s: it is not over before the kills
    batch = begin(ai, slow_rows(texts))
    under_way(ai, batch.id)
    [worker] = until(lambda: processes(server, WORKER_MODULE), lambda found: len(found) == 1)
    worker.kill()
    until(lambda: processes(server, WORKER_MODULE), lambda found: found not in ([], [worker]))
    [engine] = until(lambda: processes(server, ENGINE_MODULE), lambda found: len(found) == 1)
    engine.kill()
    assert_each_once(ai, ended(ai, batch.id), texts)


def test_a_killed_server_goes_on_where_it_was_and_ends_what_is_late(tmp_path: Path) -> None:
    server = EchoServer(tmp_path / "home")
    try:
        with client_of(server) as ai:
            batch = begin(ai, slow_rows(numbered(600)))
            late = begin(ai, slow_rows(numbered(2000)))
            under_way(ai, batch.id)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.communicate(timeout=30)
        _end_window(server, late.id)
        server.start()
        with client_of(server) as ai:
            assert_each_once(ai, ended(ai, batch.id), numbered(600))
            late = ended(ai, late.id)
            assert late.status == "expired"
            output, errors = lines(ai, late.output_file_id), lines(ai, late.error_file_id)
            assert {line["error"]["code"] for line in errors} == {"batch_expired"}
            assert sorted(int(line["custom_id"]) for line in [*output, *errors]) == [*range(2000)]
    finally:
        server.stop()


def _end_window(server: EchoServer, batch_id: str) -> None:
    """Let a batch's day be over while the server is down."""
    from sqlalchemy import select, update

    from llmos.storage.schema import jobs

    def change(connection: Any) -> None:
        query = select(batches.c.job_id).where(batches.c.id == batch_id)
        job_id = connection.execute(query).scalar_one()
        params = connection.execute(select(jobs.c.params).where(jobs.c.id == job_id)).scalar_one()
        expired = update(jobs).where(jobs.c.id == job_id)
        connection.execute(expired.values(params=params | {"expires_at": 1.0}))

    database = Database.open(server.settings.database_path)
    database.write_sync(change)
    database.close()


def test_another_owner_sees_none_of_it(server: EchoServer, ai: openai.OpenAI) -> None:
    with Client(server.url, server.key) as admin:
        key = admin.create_key("bob")["key"]
    mine = begin(ai, rows({"a": chat("x")}))
    with client_of(server, key) as bob:
        for look in (
            lambda: bob.batches.retrieve(mine.id),
            lambda: bob.batches.cancel(mine.id),
            lambda: bob.files.retrieve(mine.input_file_id),
            lambda: bob.files.content(mine.input_file_id),
            lambda: bob.files.delete(mine.input_file_id),
        ):
            with pytest.raises(openai.PermissionDeniedError):
                look()
        assert list(bob.batches.list()) == []
        theirs = ended(bob, begin(bob, rows({"a": chat("mine")})).id)
        assert theirs.status == "completed"
    ended(ai, mine.id)
