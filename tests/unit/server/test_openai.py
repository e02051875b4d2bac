from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


CHAT: dict[str, Any] = {"model": "talker", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "writer", "prompt": "Hello"}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_models_are_listed_once_a_name_and_found_by_reference(
    client: httpx.AsyncClient,
) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert "talker" in [model["id"] for model in listed["data"]]
    one = (await client.get("/v1/models/talker:1")).json()
    assert (one["id"], one["object"], one["owned_by"]) == ("talker:1", "model", "admin")
    missing = await client.get("/v1/models/nobody")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "model_not_found"


async def test_chat_has_the_shape_clients_expect(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/chat/completions", json=CHAT)).json()
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "u:hi\na:", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 7, "total_tokens": 14}


async def test_chat_chunks_begin_with_the_role_and_end_with_the_reason(
    client: httpx.AsyncClient,
) -> None:
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    got = events(await client.post("/v1/chat/completions", json=asked))
    assert {chunk["object"] for chunk in got} == {"chat.completion.chunk"}
    assert got[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert got[-2]["choices"][0] == {
        "index": 0,
        "delta": {},
        "finish_reason": "stop",
        "logprobs": None,
    }
    assert got[-1]["choices"] == []
    assert got[-1]["usage"]["total_tokens"] == 14
    assert all(chunk["usage"] is None for chunk in got[:-1])


async def test_stop_and_max_tokens_say_why_they_ended(client: httpx.AsyncClient) -> None:
    asked = {**TEXT, "stop": ["ll"]}
    choice = (await client.post("/v1/completions", json=asked)).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("He", "stop")
    asked = {**TEXT, "max_tokens": 2}
    choice = (await client.post("/v1/completions", json=asked)).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("He", "length")


async def test_completions_take_several_prompts_and_echo(client: httpx.AsyncClient) -> None:
    asked = {"model": "writer", "prompt": ["ab", "cde"], "n": 2, "echo": True}
    body = (await client.post("/v1/completions", json=asked)).json()
    texts = [choice["text"] for choice in body["choices"]]
    assert texts == ["abab", "abab", "cdecde", "cdecde"]
    assert body["usage"] == {"prompt_tokens": 5, "completion_tokens": 10, "total_tokens": 15}
    asked = {"model": "writer", "prompt": [[1, 2], [3]]}
    body = (await client.post("/v1/completions", json=asked)).json()
    assert [choice["text"] for choice in body["choices"]] == ["ab", "c"]


async def test_logprobs_in_both_shapes(client: httpx.AsyncClient) -> None:
    asked = {**CHAT, "logprobs": True, "top_logprobs": 1}
    body = (await client.post("/v1/chat/completions", json=asked)).json()
    token = body["choices"][0]["logprobs"]["content"][0]
    assert token == {
        "token": "u",
        "logprob": 0.0,
        "bytes": [117],
        "top_logprobs": [{"token": "u", "logprob": 0.0, "bytes": [117]}],
    }
    body = (await client.post("/v1/completions", json={**TEXT, "logprobs": 1})).json()
    logprobs = body["choices"][0]["logprobs"]
    assert logprobs["tokens"] == list("Hello")
    assert logprobs["text_offset"] == [0, 1, 2, 3, 4]
    assert logprobs["top_logprobs"][0] == {"H": 0.0}


async def test_content_parts_and_developers_are_understood(client: httpx.AsyncClient) -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    messages = [{"role": "developer", "content": "be"}, {"role": "user", "content": parts}]
    body = (await client.post("/v1/chat/completions", json={**CHAT, "messages": messages})).json()
    assert body["choices"][0]["message"]["content"] == "s:be\nu:hi\na:"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"max_tokens": 10**30}, "'max_tokens'"),
        ({"top_k": 10**30}, "'top_k'"),
        ({"top_k": -1}, "'top_k'"),
        ({"seed": -(10**30)}, "'seed'"),
        ({"logit_bias": {"5": 10**30}}, "logit_bias"),
        ({"messages": [{"role": "user", "content": 10**30}]}, "'messages.0.content'"),
        ({"temperature": 3}, "temperature"),
        ({"n": 10**6}, "'n'"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [{"role": "user"}]}, "content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "content"),
        ({"model": None}, "model"),
    ],
)
async def test_what_is_not_served_is_refused_by_name(
    client: httpx.AsyncClient, extra: dict[str, Any], says: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, **extra})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert says in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "extra",
    [
        {"tools": []},
        {"tools": None},
        {"response_format": {"type": "text"}},
        {"parallel_tool_calls": True},
        {"user": "me"},
        {"store": False},
        {"logit_bias": {}},
        {"metadata": None},
        {"service_tier": "auto"},
    ],
)
async def test_fields_that_ask_for_nothing_are_taken(
    client: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    assert (await client.post("/v1/chat/completions", json={**CHAT, **extra})).status_code == 200


async def test_the_same_seed_is_passed_on(client: httpx.AsyncClient) -> None:
    asked = {**TEXT, "seed": 7, "temperature": 0.5, "top_p": 0.9, "presence_penalty": 1}
    assert (await client.post("/v1/completions", json=asked)).status_code == 200
