from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]
PIPELINE = {"name": "nightly", "steps": {"train": {"kind": "train", "params": {"recipe": {}}}}}
SCHEDULE: dict[str, Any] = {"cron": "0 2 * * *", "pipeline": PIPELINE}


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


async def test_a_schedule_is_made_shown_and_removed(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    body = {**SCHEDULE, "timezone": "Asia/Shanghai"}
    response = await client.post("/api/v1/schedules", json=body)
    assert response.status_code == 201, response.text
    made = response.json()
    assert (made["name"], made["cron"], made["timezone"]) == (
        "nightly",
        "0 2 * * *",
        "Asia/Shanghai",
    )
    assert (made["last_at"], made["last_error"]) == (None, None)
    assert (made["next_at"] + 6 * 3600) % 86400 == 0
    assert (await client.get(f"/api/v1/schedules/{made['id']}")).json() == made
    del made["pipeline"]
    assert (await client.get("/api/v1/schedules")).json()["data"] == [made]
    assert (await client.delete(f"/api/v1/schedules/{made['id']}")).status_code == 200
    assert (await client.get("/api/v1/schedules")).json()["data"] == []
    trail = (await new_client("admin").get("/api/v1/audit")).json()["data"]
    object = f"schedule:{made['id']}"
    actions = [event["action"] for event in trail if event["object"] == object]
    assert actions == ["schedule.remove", "schedule.add"]


BAD = [
    ({"cron": "0 0 31 2 *"}, "cron", "never comes due"),
    ({"cron": "0 0 * *"}, "cron", "five fields"),
    ({"cron": "61 * * * *"}, "cron", "61"),
    ({"cron": ""}, "cron", "cron"),
    ({"cron": "* " * 200}, "cron", "cron"),
    ({"cron": 5}, "cron", "cron"),
    ({"timezone": "Asia/Shangai"}, "timezone", "Asia/Shanghai"),
    ({"timezone": "../../etc/passwd"}, "timezone", "time zone"),
    ({"name": ""}, "name", "name"),
    ({"pipeline": []}, "pipeline", "pipeline"),
    ({"pipeline": {"name": "p", "steps": {}}}, "steps", "steps"),
    (
        {"pipeline": {"name": "p", "steps": {"a": {"kind": "trian"}}}},
        "steps.a.kind",
        "train",
    ),
    (
        {"pipeline": {"name": "p", "steps": {"a": {"kind": "train", "after": "a"}}}},
        "steps.a",
        "wait for each other",
    ),
    ({"every": 5}, "every", "every"),
]


async def test_a_bad_schedule_is_refused_and_nothing_is_kept(client: httpx.AsyncClient) -> None:
    for change, param, says in BAD:
        response = await client.post("/api/v1/schedules", json={**SCHEDULE, **change})
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param), error
        assert says in error["message"]
    assert (await client.get("/api/v1/schedules")).json()["data"] == []


async def test_a_schedule_is_its_owners(new_client: NewClient) -> None:
    mine, other, admin = new_client("user", name="me"), new_client("user", name="x"), new_client()
    made = (await mine.post("/api/v1/schedules", json=SCHEDULE)).json()
    path = f"/api/v1/schedules/{made['id']}"
    assert (await other.get("/api/v1/schedules")).json()["data"] == []
    for method in ("GET", "DELETE"):
        assert (await other.request(method, path)).status_code == 403
    assert made["id"] in [s["id"] for s in (await admin.get("/api/v1/schedules")).json()["data"]]
    assert (await mine.delete(path)).status_code == 200
    gone = await mine.get(path)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


async def test_a_key_that_may_not_submit_jobs_schedules_none(new_client: NewClient) -> None:
    limited = new_client("user", name="l", actions=["schedules.write", "schedules.read"])
    assert (await limited.post("/api/v1/schedules", json=SCHEDULE)).status_code == 403


async def test_a_schedules_runs_are_on_the_terms_of_its_key(
    client: httpx.AsyncClient, system: Any
) -> None:
    made = (await client.post("/api/v1/schedules", json=SCHEDULE)).json()
    actor = system.keys.actor_of(made["key_id"])
    assert (actor.owner, actor.role) == (made["owner"], "user")
    system.keys.revoke(made["key_id"])
    with pytest.raises(Exception, match="was revoked"):
        system.keys.actor_of(made["key_id"])
    assert "secret" not in json.dumps(made)
