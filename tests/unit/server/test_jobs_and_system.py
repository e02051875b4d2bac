from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.unit.training.tiny import make_recipe

from llmos.errors import DiskFullError
from llmos.kernel.jobs import JobEvent
from llmos.security.actors import Actor
from llmos.server.app import MAX_OWNER_WATCHERS
from llmos.server.lifetime import Lifetime
from llmos.server.routes.jobs import event_json
from llmos.training import jobs as training_jobs

NewClient = Callable[..., httpx.AsyncClient]
JOB: dict[str, Any] = {"kind": "train", "name": "mine", "params": {"recipe": {"steps": 1}}}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_a_job_is_submitted_listed_and_cancelled(client: httpx.AsyncClient) -> None:
    response = await client.post("/api/v1/jobs", json={**JOB, "priority": "batch"})
    assert response.status_code == 202
    job = response.json()
    assert (job["state"], job["priority"], job["owner"]) == ("queued", "batch", "admin")
    assert (await client.get("/api/v1/jobs")).json()["data"] == [job]
    assert (await client.get(f"/api/v1/jobs/{job['id']}")).json() == job
    cancelled = (await client.post(f"/api/v1/jobs/{job['id']}/cancel")).json()
    assert cancelled["state"] == "cancelled"


async def test_events_are_followed_until_the_job_has_ended(client: httpx.AsyncClient) -> None:
    job = (await client.post("/api/v1/jobs", json=JOB)).json()
    following = asyncio.create_task(client.get(f"/api/v1/jobs/{job['id']}/events"))
    await client.post(f"/api/v1/jobs/{job['id']}/cancel")
    got = events(await following)
    assert [event["data"]["state"] for event in got] == ["queued", "cancelled"]
    after = f"/api/v1/jobs/{job['id']}/events?follow=false&after={got[0]['id']}"
    assert events(await client.get(after)) == got[1:]


async def test_a_user_sees_only_its_own_jobs(new_client: NewClient) -> None:
    mine, other = new_client("user", name="me"), new_client("user", name="other")
    job = (await mine.post("/api/v1/jobs", json=JOB)).json()
    assert (await other.get("/api/v1/jobs")).json()["data"] == []
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/events")):
        response = await other.request(method, f"/api/v1/jobs/{job['id']}{path}")
        assert response.status_code == 403
    assert (await mine.get(f"/api/v1/jobs/{job['id']}")).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({**JOB, "kind": "trian"}, 400, "train"),
        ({**JOB, "priority": "soon"}, 400, "priority"),
        ({**JOB, "after": [99]}, 404, "99"),
        ({**JOB, "params": {"a": "\ud800"}}, 400, "not Unicode"),
        ({**JOB, "params": {"a": [float("nan")]}}, 400, "not finite"),
        ({**JOB, "params": {"a": [1, 2**63]}}, 400, "params.a.1"),
        ({**JOB, "params": {"a": {"b": -(10**30)}}}, 400, "params.a.b"),
        ({**JOB, "params": {"\ud800": 10**30}}, 400, "not Unicode"),
        ({**JOB, "after": ["9" * 30]}, 400, "after.0"),
        ({**JOB, "params": {"base": {"ref": "writer:1"}}}, 400, "model.base"),
        ({**JOB, "params": {"recipe": {"model": {"base": "riter"}}}}, 404, "writer"),
        ({**JOB, "params": {"recipe": {"model": {"base": "../x"}}}}, 400, "../x"),
        ({**JOB, "params": []}, 400, "params"),
        ({"kind": "train"}, 400, "name"),
    ],
)
async def test_a_bad_job_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, says: str
) -> None:
    content = json.dumps(body)
    headers = {"Content-Type": "application/json"}
    response = await client.post("/api/v1/jobs", content=content, headers=headers)
    assert response.status_code == status
    assert says in response.json()["error"]["message"]


async def test_a_recipe_goes_on_from_a_model_of_the_library(
    system: Any,
    client: httpx.AsyncClient,
    new_client: NewClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(system.kernel.jobs.kinds, "train", training_jobs.llmos_job_kinds()[0])
    recipe = make_recipe("generate", model={"base": "writer"}, tokenizer={"kind": "base"})
    job = {**JOB, "params": {"recipe": recipe, "name": "mine"}}
    response = await client.post("/api/v1/jobs", json=job)
    assert response.status_code == 202, response.text
    base = response.json()["params"]["base"]
    assert base["ref"] == "writer:1"
    files = system.library.resolve("writer").files
    assert base["files"] == {
        name: {"digest": file.digest, "size": file.size} for name, file in files.items()
    }
    limited = new_client("user", models=["judge"])
    assert (await limited.post("/api/v1/jobs", json=job)).status_code == 403
    blind = new_client("user", name="blind", actions=["jobs.write"])
    assert (await blind.post("/api/v1/jobs", json=job)).status_code == 403


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"recipe": []},
        {"recipe": {"model": []}},
        {"recipe": {"model": {"base": ["writer"]}}},
        {"recipe": {"model": {"base": "writer"}}},
        {"recipe": make_recipe("generate"), "data": 5},
        {"recipe": make_recipe("generate"), "data": {"a": {}}},
        {"recipe": make_recipe("generate"), "name": {}},
        {"recipe": make_recipe("generate"), "base": 5},
    ],
)
async def test_malformed_train_params_are_a_400(
    system: Any,
    client: httpx.AsyncClient,
    params: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(system.kernel.jobs.kinds, "train", training_jobs.llmos_job_kinds()[0])
    response = await client.post("/api/v1/jobs", json={**JOB, "params": params})
    assert response.status_code == 400, response.text


async def test_nesting_without_end_is_refused(client: httpx.AsyncClient) -> None:
    params: dict[str, Any] = {}
    for _ in range(200):
        params = {"a": params}
    response = await client.post("/api/v1/jobs", json={**JOB, "params": params})
    assert response.status_code == 400


@pytest.mark.parametrize("job_id", ["0", "-1", "x", "9" * 30, "1.5", "..%2f"])
async def test_a_job_number_is_a_number(client: httpx.AsyncClient, job_id: str) -> None:
    assert (await client.get(f"/api/v1/jobs/{job_id}")).status_code in {400, 404}
    missing = await client.get("/api/v1/jobs/12345")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "job_not_found")


def test_a_metrics_values_are_together() -> None:
    event = JobEvent(3, 1, "metric", {"step": 5, "loss": 1.5}, 2.0)
    assert event_json(event)["data"] == {"step": 5, "values": {"loss": 1.5}}


async def test_health_and_ready_need_no_key(new_client: NewClient) -> None:
    open_client = new_client(None)
    assert (await open_client.get("/health")).json()["status"] == "ok"
    assert (await open_client.get("/ready")).json()["status"] == "ready"


async def test_ps_shows_models_jobs_and_memory(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/generate", json={"model": "writer", "prompt": "x"})
    status = (await client.get("/api/v1/ps")).json()
    model = status["models"][0]
    assert (model["name"], model["engine"], model["state"]) == ("writer:1", "echo", "ready")
    assert (model["leases"], status["jobs"]) == (0, [])
    assert status["memory"]["capacity_bytes"] == 2**30


async def test_ps_tells_of_others_jobs_to_nobody_but_an_admin(
    client: httpx.AsyncClient, new_client: NewClient, system: Any
) -> None:
    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    asker = Actor("k", "alice", "user").to_dict()
    job = await system.kernel.jobs.submit("train", {"a": 1}, owner="alice", asker=asker)
    await system.kernel.jobs.claim(job.id, 60.0, 1)

    async def seen_by(who: httpx.AsyncClient) -> list[dict[str, Any]]:
        return list((await who.get("/api/v1/ps")).json()["jobs"])

    assert await seen_by(bob) == []
    for insider in (alice, client):
        (shown,) = await seen_by(insider)
        assert (shown["id"], shown["params"]) == (job.id, {"a": 1})
        assert "asker" not in shown


async def test_gc_frees_what_nothing_needs(client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/blobs", content=b"nobody needs this")
    assert (await client.post("/api/v1/gc", json={})).json()["removed"] == 0
    report = (await client.post("/api/v1/gc", json={"grace_s": 0})).json()
    assert report == {"removed": 1, "freed_bytes": 17, "directories": 0}
    assert (await client.post("/api/v1/gc", json={"grace_s": -1})).status_code == 400


async def test_a_sweep_is_on_the_trail_before_it_starts_and_after(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(grace_s: float) -> None:
        raise DiskFullError

    await client.post("/api/v1/gc", json={"grace_s": 60})
    monkeypatch.setattr(system.library, "gc", fail)
    await client.post("/api/v1/gc", json={"grace_s": 0})
    trail = (await client.get("/api/v1/audit")).json()["data"]
    events = [(e["action"], e["detail"]) for e in trail if e["action"].startswith("system.gc")]
    assert events == [
        ("system.gc", {"grace_s": 0.0}),
        ("system.gc_done", {"freed_bytes": 0, "removed": 0}),
        ("system.gc", {"grace_s": 60.0}),
    ]


async def test_keys_are_made_shown_once_and_revoked_at_once(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    body = {"name": "laptop", "models": ["writer"], "expires_in_s": 60}
    response = await client.post("/api/v1/keys", json=body)
    assert response.status_code == 201
    made = response.json()
    holder = new_client(None)
    holder.headers["Authorization"] = f"Bearer {made['key']}"
    assert (await holder.get("/api/v1/version")).status_code == 200
    listed = (await client.get("/api/v1/keys")).json()["data"]
    assert made["id"] in [key["id"] for key in listed]
    assert made["key"] not in json.dumps(listed)
    assert (await client.delete(f"/api/v1/keys/{made['id']}")).json()["revoked_at"] is not None
    assert (await holder.get("/api/v1/version")).status_code == 401
    assert (await client.delete("/api/v1/keys/nope")).status_code == 404
    wrong = {"name": "x", "actions": ["fly"]}
    assert (await client.post("/api/v1/keys", json=wrong)).status_code == 400


async def test_the_log_is_read_from_its_end(client: httpx.AsyncClient, system: Any) -> None:
    assert (await client.get("/api/v1/logs")).status_code == 404
    path = system.settings.logs_path / "server.log"
    path.write_text("".join(f"line {n}\n" for n in range(1000)))
    got = events(await client.get("/api/v1/logs?lines=2"))
    assert got == [{"line": "line 998"}, {"line": "line 999"}]


async def test_shutdown_sets_the_end(client: httpx.AsyncClient, lifetime: Lifetime) -> None:
    assert (await client.post("/api/v1/shutdown")).status_code == 202
    assert lifetime.ending.is_set()


async def test_one_owners_watchers_have_a_limit_and_leave_the_others_theirs(
    new_client: NewClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribed, subscribe = asyncio.Queue[str](), system.kernel.events.subscribe

    def noted(topic: str) -> Any:
        subscribed.put_nowait(topic)
        return subscribe(topic)

    monkeypatch.setattr(system.kernel.events, "subscribe", noted)
    mine, other, admin = new_client("user", name="me"), new_client("user"), new_client("admin")
    job = (await mine.post("/api/v1/jobs", json=JOB)).json()
    paths = [f"/api/v1/jobs/{job['id']}/events", *["/api/v1/events"] * (MAX_OWNER_WATCHERS - 1)]
    following = [asyncio.create_task(mine.get(path)) for path in paths]
    for _ in paths:
        await subscribed.get()
    for path in paths[:2]:
        refused = await mine.get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert "20 streams of events under way" in refused.json()["error"]["message"]
        assert (await mine.get(path, params={"follow": False})).status_code == 200
    following.append(asyncio.create_task(other.get("/api/v1/events")))
    await mine.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert (await following[0]).status_code == 200
    following[0] = asyncio.create_task(mine.get("/api/v1/events"))
    for _ in range(2):
        await subscribed.get()
    await admin.post("/api/v1/shutdown")
    assert [(await response).status_code for response in following] == [200] * len(following)


async def test_whoever_follows_is_let_go_at_the_end(
    client: httpx.AsyncClient, lifetime: Lifetime
) -> None:
    job = (await client.post("/api/v1/jobs", json=JOB)).json()
    following = asyncio.create_task(client.get(f"/api/v1/jobs/{job['id']}/events"))
    await client.post("/api/v1/shutdown")
    response = await following
    assert response.status_code == 200
    assert "[DONE]" not in response.text
