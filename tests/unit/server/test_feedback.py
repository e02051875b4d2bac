"""What people say of answers over HTTP: kept only with kept answers, listed, forgotten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

NewClient = Callable[..., httpx.AsyncClient]
TURNS = [{"role": "user", "content": "hello"}]


async def answered(client: httpx.AsyncClient, **more: Any) -> str:
    body = {"model": "talker", "messages": TURNS, "max_tokens": 5, **more}
    return str((await client.post("/v1/chat/completions", json=body)).json()["id"])


async def keep(client: httpx.AsyncClient) -> None:
    await client.put("/api/v1/answers", json={"keeps": True})


async def test_a_correction_is_kept_with_the_answer_and_counts_as_bad(
    client: httpx.AsyncClient, system: Any
) -> None:
    await keep(client)
    response_id = await answered(client)
    before = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    body = {"response_id": response_id, "correction": "你好！", "comment": "in Chinese, please"}
    noted = (await client.post("/api/v1/feedback", json=body)).json()
    assert (noted["model"], noted["good"]) == ("talker:1", False)
    after = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    assert after[1] - before[1] == pytest.approx(10, abs=0.1)
    listed = (await client.get("/api/v1/feedback", params={"model": "talker"})).json()["data"]
    (one,) = listed
    assert (one["id"], one["correction"]) == (noted["id"], "你好！")
    assert one["prompt"][0]["content"] == "hello"
    completion = (await client.get(f"/api/v1/lineage/answers/{response_id}")).json()["answer"]
    assert one["text"] == completion["outputs"][0]["text"] != ""
    assert (await client.get("/api/v1/feedback", params={"model": "writer"})).json()["data"] == []
    assert (await client.delete(f"/api/v1/feedback/{one['id']}")).json()["removed"] is True
    assert (await client.get("/api/v1/feedback")).json()["data"] == []
    assert (await client.delete(f"/api/v1/feedback/{one['id']}")).status_code == 404


async def test_a_rating_in_the_middle_is_kept_and_judges_nobody(
    client: httpx.AsyncClient, system: Any
) -> None:
    await keep(client)
    before = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    body = {"response_id": await answered(client), "rating": 3}
    noted = (await client.post("/api/v1/feedback", json=body)).json()
    assert noted["good"] is None and noted["id"] > 0
    after = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    assert after == pytest.approx(before, abs=0.1)


async def test_what_is_refused_judges_nobody(client: httpx.AsyncClient, system: Any) -> None:
    await keep(client)
    before = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    body = {"response_id": await answered(client), "good": False, "choice": 1}
    refused = await client.post("/api/v1/feedback", json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "choice")
    after = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    assert after == pytest.approx(before, abs=0.1)


async def test_the_text_of_an_answer_is_kept_without_the_prompt_it_echoes(
    client: httpx.AsyncClient,
) -> None:
    await keep(client)
    asked = {"model": "writer", "prompt": "hello world", "max_tokens": 5, "echo": True}
    response_id = (await client.post("/v1/completions", json=asked)).json()["id"]
    kept = (await client.get(f"/api/v1/lineage/answers/{response_id}")).json()["answer"]
    assert kept["outputs"][0]["text"] == "hello"


@pytest.mark.parametrize("said", [{"rating": 5}, {"correction": "x"}, {"comment": "x"}])
async def test_what_can_only_be_learned_needs_a_kept_answer_and_says_how(
    client: httpx.AsyncClient, said: dict[str, Any]
) -> None:
    body = {"response_id": await answered(client), **said}
    refused = await client.post("/api/v1/feedback", json=body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "answer_not_found")
    assert "llmos answers on" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"response_id": "chatcmpl-1"},
        {"response_id": "chatcmpl-1", "rating": 6},
        {"response_id": "chatcmpl-1", "rating": "5"},
        {"response_id": "chatcmpl-1", "correction": ""},
        {"response_id": "chatcmpl-1", "good": True, "choice": -1},
        {"model": "talker", "good": True, "correction": "x"},
        {"model": "talker", "rating": 5},
    ],
)
async def test_feedback_that_says_nothing_or_of_nothing_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    assert (await client.post("/api/v1/feedback", json=body)).status_code == 400


async def test_it_is_its_owners_alone(client: httpx.AsyncClient, new_client: NewClient) -> None:
    alice = new_client("user", name="alice", owner="alice")
    bob = new_client("user", name="bob", owner="bob")
    await keep(alice)
    await keep(bob)
    body = {"response_id": await answered(alice), "good": True}
    assert (await bob.post("/api/v1/feedback", json=body)).status_code == 404
    number = (await alice.post("/api/v1/feedback", json=body)).json()["id"]
    assert (await bob.get("/api/v1/feedback")).json()["data"] == []
    assert (await bob.delete(f"/api/v1/feedback/{number}")).status_code == 404
    limited = new_client("user", name="limited", owner="alice", models=["writer"])
    assert (await limited.get("/api/v1/feedback")).json()["data"] == []
    assert (await alice.get("/api/v1/feedback")).json()["data"][0]["owner"] == "alice"


async def test_rows_are_taken_all_or_none(client: httpx.AsyncClient) -> None:
    row = {"messages": [*TURNS, {"role": "assistant", "content": "hi"}]}
    pair = {"prompt": "hello", "chosen": "hi", "rejected": "no"}
    path = "/api/v1/feedback/rows"
    wrong = {"model": "talker", "rows": [row, {"messages": TURNS}]}
    refused = await client.post(path, json=wrong)
    assert refused.status_code == 400 and "row 2" in refused.json()["error"]["message"]
    refused = await client.post(path, json=wrong | {"first": 201})
    assert "row 202" in refused.json()["error"]["message"]
    assert (await client.get("/api/v1/feedback")).json()["data"] == []
    body = {"model": "talker", "rows": [row, pair, {"text": "Once upon a time"}]}
    assert (await client.post(path, json=body)).json() == {
        "model": "talker:1",
        "added": 3,
        "known": 0,
    }
    assert (await client.post(path, json=body)).json()["known"] == 3
    assert (await client.post(path, json=body | {"model": "none"})).status_code == 404


async def test_a_verdict_on_the_same_answer_counts_once(
    client: httpx.AsyncClient, system: Any
) -> None:
    await keep(client)
    body = {"response_id": await answered(client), "good": True}
    before = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    for _ in range(3):
        assert (await client.post("/api/v1/feedback", json=body)).json()["good"] is True
    after = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    assert after[0] - before[0] == pytest.approx(10, abs=0.1)
    await client.post("/api/v1/feedback", json=body | {"good": False})
    last = system.choosing.outcomes.counts("talker:1", "chat", "", "admin")
    assert last == pytest.approx((before[0], before[1] + 10), abs=0.1)


async def test_a_key_for_other_models_neither_says_nor_forgets_anything(
    client: httpx.AsyncClient, new_client: NewClient
) -> None:
    alice = new_client("user", name="alice", owner="alice")
    limited = new_client("user", name="limited", owner="alice", models=["writer"])
    await keep(alice)
    body = {"response_id": await answered(alice)}
    for said in ({"comment": "x"}, {"rating": 3}, {"good": True}, {"correction": "x"}):
        refused = await limited.post("/api/v1/feedback", json=body | said)
        assert refused.status_code == 403, said
    number = (await alice.post("/api/v1/feedback", json=body | {"rating": 5})).json()["id"]
    assert (await limited.delete(f"/api/v1/feedback/{number}")).status_code == 404
    assert (await alice.delete(f"/api/v1/feedback/{number}")).status_code == 200
