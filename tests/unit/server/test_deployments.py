"""Deploying over HTTP: what moves, what is refused and with which words, and who may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos.types import NewVersion

NewClient = Callable[..., httpx.AsyncClient]
PATH = "/api/v1/deployments"


@pytest.fixture(autouse=True)
def measured(system: Any) -> None:
    """Versions of ``m``, each better than the one before."""
    manifest = {"task": "generate", "engine": "echo", "architecture": "Echo", "model_type": "echo"}
    for number in (1, 2):
        files = {"config.json": system.blobs.put_bytes(str(number).encode())}
        metrics = {"test": {"f1": 0.8 + number / 100}}
        new = NewVersion("model", "m", files, manifest | {"metrics": metrics})
        system.library.add(new, "admin")


async def test_a_version_is_deployed_tried_promoted_and_taken_back(
    client: httpx.AsyncClient,
) -> None:
    gates = ["test/f1 >= current - 0.01"]
    made = await client.post(PATH, json={"model": "m:1", "alias": "production", "gates": gates})
    assert made.status_code == 200
    assert (made.json()["ref"], made.json()["model"]) == ("m@production", "m:1")
    assert made.json()["checks"] == [
        {"gate": gates[0], "value": 0.81, "bound": None, "passed": True}
    ]
    tried = {"model": "m:2", "alias": "production", "weight": 0.1, "rules": {"min_requests": 5}}
    found = (await client.post(PATH, json=tried)).json()
    assert (found["candidate"], found["weight"]) == ("m:2", 0.1)
    assert found["rules"] == {
        "min_requests": 5,
        "max_error_rate": 0.02,
        "max_latency_ratio": 1.5,
    }
    promoted = (await client.post(f"{PATH}/m@production/promote")).json()
    assert (promoted["model"], promoted["candidate"]) == ("m:2", None)
    assert (await client.get("/api/v1/models/m@production")).json()["ref"] == "m:2"
    back = await client.post(f"{PATH}/m@production/rollback", json={"reason": "worse"})
    assert back.json()["model"] == "m:1"
    listed = (await client.get(PATH)).json()["data"]
    assert [(one["ref"], one["model"]) for one in listed] == [("m@production", "m:1")]
    shown = (await client.get(f"{PATH}/m@production")).json()
    assert [one["action"] for one in shown["history"]] == [
        "rollback", "promote", "canary", "deploy"
    ]  # fmt: skip
    assert shown["history"][0]["reason"] == "worse"
    assert (await client.delete(f"{PATH}/m@production")).status_code == 200
    assert (await client.get(PATH)).json()["data"] == []


async def test_what_is_seen_of_a_candidate_is_shown_and_a_broken_one_is_taken_back(
    client: httpx.AsyncClient, system: Any
) -> None:
    writer = system.library.resolve("writer")
    for content in (b"sound", b"gone"):
        files = {**writer.files, "config.json": system.blobs.put_bytes(content)}
        system.library.add(NewVersion("model", "v", files, writer.manifest), "admin")
    del system.blobs.blobs[files["config.json"].digest]
    await client.post(PATH, json={"model": "v:1", "alias": "production"})
    tried = {"model": "v:2", "alias": "production", "weight": 0.5, "rules": {"min_requests": 10}}
    await client.post(PATH, json=tried)
    assert (await client.get(f"{PATH}/v@production")).json()["seen"] == {}
    asked = {"model": "v@production", "prompt": "hello", "max_tokens": 1}
    codes = set()
    for _ in range(8):
        answer = await client.post("/v1/completions", json=asked)
        codes.add((answer.status_code, answer.json().get("error", {}).get("code")))
    seen = (await client.get(f"{PATH}/v@production")).json()["seen"]
    assert codes == {(200, None), (500, "corrupt_blob")}
    assert (seen["v:2"]["failures"], seen["v:1"]["failures"]) == (seen["v:2"]["requests"], 0)
    for _ in range(40):
        await client.post("/v1/completions", json=asked)
    await system.canaries.close()
    shown = (await client.get(f"{PATH}/v@production")).json()
    assert (shown["candidate"], shown["model"], shown["seen"]) == (None, "v:1", {})
    assert "100.0% of 10 requests failed" in shown["history"][0]["reason"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "m:1", "gates": ["test/f1 >= 0.9"]}, 409, "gate_failed", None),
        ({"model": "m:1", "gates": ["test/bleu >= 0.9"]}, 400, "invalid_request", "gates"),
        ({"model": "m:1", "gates": ["f1"]}, 400, "invalid_request", "gates"),
        ({"model": "m:1", "weight": 0}, 400, "invalid_request", "weight"),
        ({"model": "m:1", "rules": {"max_error_rate": 2}}, 400, "invalid_request", None),
        ({"model": "m:1", "alias": "latest"}, 400, "invalid_name", "alias"),
        ({"model": "nothing"}, 404, "model_not_found", None),
        ({"model": "m:1", "speed": 1}, 400, "invalid_request", None),
    ],
)
async def test_what_cannot_be_deployed_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, body: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    answer = await client.post(PATH, json={"alias": "production", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), error
    if param is not None:
        assert error["param"] == param
    assert (await client.get(PATH)).json()["data"] == []


async def test_an_unknown_deployment_is_not_found(client: httpx.AsyncClient) -> None:
    for method, path, body in (
        ("GET", "", None), ("DELETE", "", None), ("POST", "/promote", None),
        ("POST", "/rollback", {}),
    ):  # fmt: skip
        answer = await client.request(method, f"{PATH}/m@production{path}", json=body)
        assert answer.status_code == 404, (method, path)


async def test_a_user_neither_moves_nor_sees_what_is_not_theirs(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    await client.post(PATH, json={"model": "m:1", "alias": "production"})
    user = new_client("user", models=["writer"])
    assert (await user.get(PATH)).json()["data"] == []
    assert (await user.get(f"{PATH}/m@production")).status_code == 403
    other = new_client("user", name="other")
    assert (await other.post(f"{PATH}/m@production/rollback", json={})).status_code == 403
    assert (await other.post(PATH, json={"model": "m:2", "alias": "x"})).status_code == 403
