from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from llmos.sdk.client import Client

ClientOf = Callable[[Callable[[httpx.Request], httpx.Response]], Client]
PIPELINE = {"name": "p", "steps": {"a": {"kind": "train"}}}


def recorder(sent: list[tuple[str, str, Any]]) -> Callable[[httpx.Request], httpx.Response]:
    """Answer anything, and note the method, the address with its query, the body."""

    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        sent.append((request.method, str(request.url.raw_path, "ascii"), body))
        return httpx.Response(200, json={"id": 1, "data": []})

    return handler


def test_schedules_are_made_listed_and_removed(client_of: ClientOf) -> None:
    sent: list[tuple[str, str, Any]] = []
    client = client_of(recorder(sent))
    client.add_schedule("0 2 * * *", PIPELINE)
    client.add_schedule("@daily", PIPELINE, "Asia/Shanghai", "nightly")
    assert client.schedules() == []
    client.schedule(3)
    client.remove_schedule(3)
    body = {"cron": "0 2 * * *", "pipeline": PIPELINE, "timezone": "UTC"}
    named = {**body, "cron": "@daily", "timezone": "Asia/Shanghai", "name": "nightly"}
    assert sent == [
        ("POST", "/api/v1/schedules", body),
        ("POST", "/api/v1/schedules", named),
        ("GET", "/api/v1/schedules", None),
        ("GET", "/api/v1/schedules/3", None),
        ("DELETE", "/api/v1/schedules/3", None),
    ]


def test_webhooks_are_made_listed_and_removed(client_of: ClientOf) -> None:
    sent: list[tuple[str, str, Any]] = []
    client = client_of(recorder(sent))
    client.add_webhook("https://ci.example/")
    client.add_webhook("https://ci.example/", ["job.failed"])
    assert client.webhooks() == []
    assert client.deliveries() == []
    client.deliveries(3, "dead", limit=5, before=9)
    client.remove_webhook(3)
    assert sent == [
        ("POST", "/api/v1/webhooks", {"url": "https://ci.example/"}),
        ("POST", "/api/v1/webhooks", {"url": "https://ci.example/", "events": ["job.failed"]}),
        ("GET", "/api/v1/webhooks", None),
        ("GET", "/api/v1/deliveries?limit=100", None),
        ("GET", "/api/v1/deliveries?webhook=3&state=dead&limit=5&before=9", None),
        ("DELETE", "/api/v1/webhooks/3", None),
    ]


def test_jobs_are_submitted_once_picked_by_state_and_retried(client_of: ClientOf) -> None:
    sent: list[tuple[str, str, Any]] = []
    client = client_of(recorder(sent))
    client.submit_job("train", {}, "n", idempotency_key="k")
    client.submit_job("train", {}, "n")
    client.jobs(states=["failed", "cancelled"])
    client.retry_job(3)
    body = {"kind": "train", "params": {}, "name": "n", "priority": "standard", "after": []}
    assert sent == [
        ("POST", "/api/v1/jobs", {**body, "idempotency_key": "k"}),
        ("POST", "/api/v1/jobs", body),
        ("GET", "/api/v1/jobs?limit=100&state=failed&state=cancelled", None),
        ("POST", "/api/v1/jobs/3/retry", None),
    ]


def test_all_events_are_followed_from_now_on_and_taken_up_again(client_of: ClientOf) -> None:
    asked: list[dict[str, str]] = []
    lines = "".join(
        f"id: {n}\ndata: {json.dumps({'id': n, 'job_id': 1, 'type': 'log', 'data': {}})}\n\n"
        for n in (4, 0, 5)
    )
    answers = [lines, None, lines.replace("4", "6") + "data: [DONE]\n\n"]

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        answer = answers.pop(0)
        if answer is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, text=answer)

    got = [event["id"] for event in client_of(handler).events()]
    assert got == [4, 0, 5, 6, 0, 5]
    assert asked == [
        {"follow": "true"},
        {"follow": "true", "after": "5"},
        {"follow": "true", "after": "5"},
    ]
