from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from llmos.sdk.client import Client

ClientOf = Callable[..., Client]


def test_an_owner_of_any_name_is_one_part_of_the_address(client_of: ClientOf) -> None:
    asked: list[tuple[str, bytes, bytes]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.raw_path, request.content))
        return httpx.Response(200, json={})

    client = client_of(answer)
    client.quota("*")
    client.set_quota("my laptop/2?", {"concurrency": 3, "queue_depth": None})
    client.remove_quota("ä")
    assert [(method, path) for method, path, _ in asked] == [
        ("GET", b"/api/v1/quotas/%2A"),
        ("PUT", b"/api/v1/quotas/my%20laptop%2F2%3F"),
        ("DELETE", b"/api/v1/quotas/%C3%A4"),
    ]
    assert json.loads(asked[1][2]) == {"concurrency": 3, "queue_depth": None}


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({}, {"group_by": "day,owner,model"}),
        ({"group_by": ()}, {"group_by": ""}),
        (
            {"first": "2026-11-01", "last": "2026-11-22", "owner": "a", "group_by": ["day"]},
            {"from": "2026-11-01", "to": "2026-11-22", "owner": "a", "group_by": "day"},
        ),
    ],
)
def test_usage_is_asked_for_as_json_or_csv_in_the_same_words(
    client_of: ClientOf, given: dict[str, object], sent: dict[str, str]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert dict(request.url.params) == sent
        if request.headers["accept"] == "text/csv":
            return httpx.Response(200, text="day\n")
        return httpx.Response(200, json={"data": [{"day": "2026-11-22"}]})

    client = client_of(answer)
    assert client.usage(**given) == [{"day": "2026-11-22"}]  # type: ignore[arg-type]
    assert client.usage_csv(**given) == "day\n"  # type: ignore[arg-type]
