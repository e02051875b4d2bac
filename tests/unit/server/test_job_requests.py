"""Jobs submitted once, run again, picked by state; and the events of all of them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.security.actors import Actor
from llmos.security.tokens import Keys
from llmos.server import access

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]
JOB: dict[str, Any] = {"kind": "train", "name": "mine", "params": {"recipe": {"steps": 1}}}
KEY = {"Idempotency-Key": "once"}


def events(text: str) -> list[dict[str, Any]]:
    lines = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.fixture
def system(shared: Any) -> Any:
    return shared.system


@pytest.fixture
def app(shared: Any) -> Any:
    return shared.app


@pytest.fixture
def client(new_client: NewClient, request: pytest.FixtureRequest) -> httpx.AsyncClient:
    """A user whom no other test knows."""
    return new_client("user", name=request.node.name)


# -- idempotency ---------------------------------------------------------------------------------


async def test_a_request_that_comes_twice_with_a_key_makes_one_job(
    client: httpx.AsyncClient,
) -> None:
    first = await client.post("/api/v1/jobs", json=JOB, headers=KEY)
    again = await client.post("/api/v1/jobs", json=JOB, headers=KEY)
    in_body = await client.post("/api/v1/jobs", json={**JOB, "idempotency_key": "once"})
    for response in (first, again, in_body):
        assert response.status_code == 202
        assert response.json() == first.json()
    assert first.json()["idempotency_key"] == "once"
    assert "request_digest" not in first.json()
    assert len((await client.get("/api/v1/jobs")).json()["data"]) == 1


async def test_requests_at_the_same_time_make_one_job(client: httpx.AsyncClient) -> None:
    sent = (client.post("/api/v1/jobs", json=JOB, headers=KEY) for _ in range(10))
    found = {response.json()["id"] for response in await asyncio.gather(*sent)}
    assert len(found) == 1


async def test_a_key_with_another_request_is_a_conflict(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/jobs", json=JOB, headers=KEY)
    for change in (
        {"name": "other"},
        {"params": {"recipe": {"steps": 2}}},
        {"priority": "batch"},
        {"kind": "import"},
    ):
        response = await client.post("/api/v1/jobs", json={**JOB, **change}, headers=KEY)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (409, "conflict")
        assert error["param"] == "idempotency_key"
    assert len((await client.get("/api/v1/jobs")).json()["data"]) == 1


async def test_keys_are_their_owners(new_client: NewClient) -> None:
    mine, other = new_client("user", name="me"), new_client("user", name="x")
    first = (await mine.post("/api/v1/jobs", json=JOB, headers=KEY)).json()
    second = (await other.post("/api/v1/jobs", json=JOB, headers=KEY)).json()
    assert first["id"] != second["id"]


BAD_KEYS = ["", " ", "a b", "x" * 256, "run:1:a[0]"]


async def test_a_bad_key_is_refused(client: httpx.AsyncClient) -> None:
    for key in BAD_KEYS:
        response = await client.post("/api/v1/jobs", json={**JOB, "idempotency_key": key})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, "idempotency_key"), error
    assert (await client.get("/api/v1/jobs")).json()["data"] == []


async def test_two_different_keys_for_one_request_are_refused(client: httpx.AsyncClient) -> None:
    body = {**JOB, "idempotency_key": "other"}
    assert (await client.post("/api/v1/jobs", json=body, headers=KEY)).status_code == 400


# -- retrying, states ----------------------------------------------------------------------------


async def test_a_cancelled_job_is_retried(client: httpx.AsyncClient) -> None:
    job = (await client.post("/api/v1/jobs", json=JOB)).json()
    path = f"/api/v1/jobs/{job['id']}"
    early = await client.post(f"{path}/retry")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "conflict")
    await client.post(f"{path}/cancel")
    again = await client.post(f"{path}/retry")
    assert (again.status_code, again.json()["state"]) == (200, "queued")
    assert (await client.post("/api/v1/jobs/9999/retry")).status_code == 404


async def test_only_its_owner_retries_a_job(new_client: NewClient) -> None:
    mine, other = new_client("user", name="me"), new_client("user", name="x")
    job = (await mine.post("/api/v1/jobs", json=JOB)).json()
    await mine.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert (await other.post(f"/api/v1/jobs/{job['id']}/retry")).status_code == 403


async def test_jobs_are_picked_by_state(client: httpx.AsyncClient) -> None:
    ids = [(await client.post("/api/v1/jobs", json=JOB)).json()["id"] for _ in range(2)]
    await client.post(f"/api/v1/jobs/{ids[0]}/cancel")

    async def found(query: str) -> list[int]:
        return [job["id"] for job in (await client.get(f"/api/v1/jobs?{query}")).json()["data"]]

    assert await found("state=cancelled") == ids[:1]
    assert await found("state=queued&state=running") == ids[1:]
    assert await found("state=queued&state=cancelled") == ids[::-1]
    assert await found("state=failed") == []
    wrong = await client.get("/api/v1/jobs?state=dead")
    assert wrong.status_code == 400
    assert "failed" in wrong.json()["error"]["message"]


# -- the events of all ---------------------------------------------------------------------------


async def test_the_events_of_all_ones_jobs_are_read_from_any_on(
    new_client: NewClient, system: Any
) -> None:
    mine, other, admin = new_client("user", name="a"), new_client("user", name="b"), new_client()
    before = await system.kernel.jobs.newest_event_id()
    ids = [(await mine.post("/api/v1/jobs", json=JOB)).json()["id"] for _ in range(2)]
    theirs = (await other.post("/api/v1/jobs", json=JOB)).json()["id"]
    await mine.post(f"/api/v1/jobs/{ids[0]}/cancel")

    async def found(reader: httpx.AsyncClient, after: int, **headers: str) -> list[tuple[int, str]]:
        path = f"/api/v1/events?follow=false&after={after}"
        got = events((await reader.get(path, headers=headers)).text)
        return [(event["job_id"], event["data"]["state"]) for event in got]

    everything = [(ids[0], "queued"), (ids[1], "queued"), (ids[0], "cancelled")]
    assert await found(mine, 0) == everything
    assert await found(admin, before) == [*everything[:2], (theirs, "queued"), everything[2]]
    assert await found(other, 0) == [(theirs, "queued")]
    first = events((await mine.get("/api/v1/events?follow=false&after=0")).text)[0]["id"]
    assert await found(mine, first) == everything[1:]
    assert await found(mine, 0, **{"Last-Event-ID": str(first)}) == everything[1:]


async def test_a_stream_ends_when_its_key_is_revoked(
    new_client: NewClient, client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, looked_up = system.keys.actor_of, threading.Event()

    def found(key_id: str) -> Actor:
        looked_up.set()
        return find(key_id)

    monkeypatch.setattr(access, "KEY_CACHE_S", 0.0)
    monkeypatch.setattr(Keys, "actor_of", lambda keys, key_id: found(key_id))
    admin, watcher = new_client(), new_client(name="watcher")
    await client.post("/api/v1/jobs", json=JOB)
    following = asyncio.create_task(watcher.get("/api/v1/events?after=0"))
    assert await asyncio.to_thread(looked_up.wait, 30.0)
    keys = (await admin.get("/api/v1/keys")).json()["data"]
    (key_id,) = (key["id"] for key in keys if key["name"] == "watcher")
    await admin.delete(f"/api/v1/keys/{key_id}")
    unseen = (await client.post("/api/v1/jobs", json=JOB)).json()["id"]
    *seen, last = events((await following).text)
    assert last["error"]["code"] == "invalid_api_key"
    assert unseen not in {event["job_id"] for event in seen}


async def test_every_event_has_its_number(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/jobs", json=JOB)
    text = (await client.get("/api/v1/events?follow=false&after=0")).text
    (event,) = events(text)
    assert text.startswith(f"id: {event['id']}\ndata: ")
    assert events((await client.get("/api/v1/events?follow=false")).text) == []


async def test_one_jobs_events_are_taken_up_again_by_number(client: httpx.AsyncClient) -> None:
    job = (await client.post("/api/v1/jobs", json=JOB)).json()
    await client.post(f"/api/v1/jobs/{job['id']}/cancel")
    path = f"/api/v1/jobs/{job['id']}/events?follow=false"
    first, second = events((await client.get(path)).text)
    headers = {"Last-Event-ID": str(first["id"])}
    assert events((await client.get(path, headers=headers)).text) == [second]
    assert (await client.get(path, headers={"Last-Event-ID": "x"})).status_code == 400
