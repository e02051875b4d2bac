"""What the client sends and returns about routes, explanations and verdicts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from llmos.sdk.client import Client


def test_each_call_is_one_request_with_what_was_given(
    client_of: Callable[..., Client],
) -> None:
    sent: list[tuple[str, str, Any]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content) if request.content else None
        sent.append((request.method, request.url.raw_path.decode(), body))
        return httpx.Response(200, json={"data": [1]})

    client = client_of(handler)
    assert client.routes() == [1]  # type: ignore[comparison-overlap]
    client.set_route("a b", {"m:1": 9, "n": 1}, ["m:1"])
    client.remove_route("support")
    client.remove_route("support", "alice")
    client.explain_route("hi", task="translate", source_lang="en", target_lang="zh", max_cost=None)
    client.feedback(False, model="m:1", language="zh")
    client.feedback(True, response_id="resp_1")
    client.feedback(response_id="resp_1", rating=5, correction="x", choice=1)
    client.feedback_given("m", limit=5)
    client.forget_feedback(7)
    client.classify("good", "auto", max_latency_ms=50)
    targets = [{"model": "m:1", "weight": 9}, {"model": "n", "weight": 1}]
    explained = {"text": "hi", "model": "auto", "task": "translate"}
    assert sent == [
        ("GET", "/api/v1/routes", None),
        ("PUT", "/api/v1/routes/a%20b", {"targets": targets, "fallbacks": ["m:1"]}),
        ("DELETE", "/api/v1/routes/support", None),
        ("DELETE", "/api/v1/routes/support?owner=alice", None),
        (
            "POST",
            "/api/v1/routes/explain",
            {**explained, "source_lang": "en", "target_lang": "zh"},
        ),
        ("POST", "/api/v1/feedback", {"good": False, "model": "m:1", "language": "zh"}),
        ("POST", "/api/v1/feedback", {"good": True, "response_id": "resp_1"}),
        (
            "POST",
            "/api/v1/feedback",
            {"response_id": "resp_1", "rating": 5, "correction": "x", "choice": 1},
        ),
        ("GET", "/api/v1/feedback?model=m&limit=5", None),
        ("DELETE", "/api/v1/feedback/7", None),
        ("POST", "/api/v1/classify", {"model": "auto", "text": "good", "max_latency_ms": 50}),
    ]


def test_rows_are_given_a_few_hundred_at_a_time(client_of: Callable[..., Client]) -> None:
    sent: list[tuple[int, int]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        rows = json.loads(request.content)["rows"]
        sent.append((json.loads(request.content)["first"], len(rows)))
        return httpx.Response(200, json={"model": "m:1", "added": len(rows) - 1, "known": 1})

    told = client_of(handler).teach("m", ({"text": f"{n}"} for n in range(450)))
    assert (sent, told) == (
        [(1, 200), (201, 200), (401, 50)],
        {"model": "m:1", "added": 447, "known": 3},
    )
