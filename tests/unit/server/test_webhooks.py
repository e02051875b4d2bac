from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.kernel.webhooks import EVENTS

pytestmark = pytest.mark.asyncio(loop_scope="module")
NewClient = Callable[..., httpx.AsyncClient]
URL = "https://ci.example/hook"
JOB: dict[str, Any] = {"kind": "train", "name": "mine", "params": {"recipe": {"steps": 1}}}


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


async def test_a_webhook_is_made_shown_without_its_secret_and_removed(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    response = await client.post("/api/v1/webhooks", json={"url": URL, "events": ["job.failed"]})
    assert response.status_code == 201, response.text
    made = response.json()
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert (made["url"], made["events"]) == (URL, ["job.failed"])
    listed = (await client.get("/api/v1/webhooks")).json()["data"]
    assert listed == [made]
    trail = json.dumps((await new_client("admin").get("/api/v1/audit")).json()["data"])
    assert "webhook.add" in trail
    assert secret not in trail
    assert (await client.delete(f"/api/v1/webhooks/{made['id']}")).json() == made
    gone = await client.delete(f"/api/v1/webhooks/{made['id']}")
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


async def test_a_webhook_without_a_choice_gets_every_event(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/webhooks", json={"url": URL})).json()
    assert made["events"] == list(EVENTS)


BAD = [
    ({"url": "http://127.0.0.1:8642/"}, 400, "forbidden_address", "url"),
    ({"url": "http://[::ffff:10.0.0.1]/"}, 400, "forbidden_address", "url"),
    ({"url": "http://user@ci.example/"}, 400, "invalid_request", "url"),
    ({"url": "ftp://ci.example/"}, 400, "invalid_request", "url"),
    ({"url": ""}, 400, "invalid_request", "url"),
    ({"url": 5}, 400, "invalid_request", "url"),
    ({}, 400, "invalid_request", "url"),
    ({"url": URL, "events": []}, 400, "invalid_request", "events"),
    ({"url": URL, "events": ["job.fail"]}, 400, "invalid_request", "events"),
    ({"url": URL, "events": ["*"]}, 400, "invalid_request", "events"),
    ({"url": URL, "events": ["job.failed"] * 33}, 400, "invalid_request", "events"),
    ({"url": URL, "secret": "mine"}, 400, "invalid_request", "secret"),
]


async def test_a_bad_webhook_is_refused_and_nothing_is_kept(client: httpx.AsyncClient) -> None:
    for body, status, code, param in BAD:
        response = await client.post("/api/v1/webhooks", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert (await client.get("/api/v1/webhooks")).json()["data"] == []


async def test_webhooks_and_what_was_sent_are_their_owners(new_client: NewClient) -> None:
    mine, other, admin = new_client("user", name="me"), new_client("user", name="x"), new_client()
    made = (await mine.post("/api/v1/webhooks", json={"url": URL})).json()
    job = (await mine.post("/api/v1/jobs", json=JOB)).json()
    await other.post("/api/v1/jobs", json=JOB)
    for reader, seen in ((mine, 1), (other, 0)):
        assert len((await reader.get("/api/v1/webhooks")).json()["data"]) == seen
        sent = (await reader.get("/api/v1/deliveries")).json()["data"]
        assert [d["payload"]["data"]["id"] for d in sent] == [job["id"]] * seen
    listed = (await admin.get("/api/v1/webhooks")).json()["data"]
    sent = (await admin.get("/api/v1/deliveries")).json()["data"]
    assert made["id"] in [one["id"] for one in listed]
    assert sent[0]["webhook_id"] == made["id"]
    assert (await other.delete(f"/api/v1/webhooks/{made['id']}")).status_code == 403
    assert (await mine.delete(f"/api/v1/webhooks/{made['id']}")).status_code == 200


async def test_deliveries_are_picked_by_webhook_and_state(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/webhooks", json={"url": URL})).json()
    await client.post("/api/v1/jobs", json=JOB)
    (sent,) = (await client.get("/api/v1/deliveries?state=pending")).json()["data"]
    assert (sent["webhook_id"], sent["event"]) == (made["id"], "job.queued")
    assert (sent["attempt"], sent["error"]) == (0, None)
    for query in ("state=dead", "webhook=99", f"before={sent['id']}"):
        assert (await client.get(f"/api/v1/deliveries?{query}")).json()["data"] == []
    for query in ("state=lost", "webhook=0", "limit=0", "before=x"):
        assert (await client.get(f"/api/v1/deliveries?{query}")).status_code == 400
