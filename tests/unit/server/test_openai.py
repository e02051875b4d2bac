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
    assert body["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 7,
        "total_tokens": 14,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


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
    assert (body["usage"]["prompt_tokens"], body["usage"]["total_tokens"]) == (5, 15)
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


TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f"}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = [{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": [CALL]}]
DEEP: Any = {}
for _ in range(40):
    DEEP = {"properties": {"a": DEEP}}


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name"),
        ({"tools": [{"type": "code", "function": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [TOOL, TOOL], "tool_choice": "required"}, "tools.1.function.name"),
        ({"tools": [TOOL] * 129}, "tools"),
        ({"tools": [TOOL]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format.json_schema.name",
        ),
        ({"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ({"choice": []}, "choice"),
        ({"regex": 5}, "regex"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": DEEP}}]}, "tools"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": {"5": "much"}}, "logit_bias"),
        ({"logit_bias": {"100000": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 10**30}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"thinking": "x" * 101}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"thinking": []}}, "chat_template_kwargs.thinking"),
        ({"reasoning_effort": "some"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"no_such_field": 1}, "no_such_field"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_completion_tokens": 2**31}, "max_completion_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"top_k": 10**30}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        ({"seed": -(10**30)}, "seed"),
        ({"messages": [{"role": "user", "content": 10**30}]}, "messages.0.content"),
        ({"temperature": 3}, "temperature"),
        ({"n": 10**6}, "n"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages"),
        (
            {"messages": [*CHAT["messages"], {"role": "assistant", "content": "x"}]},
            "messages.1.role",
        ),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"n": "2"}, "n"),
        ({"n": 2.0}, "n"),
        ({"n": True}, "n"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"stream": "yes"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"seed": "7"}, "seed"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"logprobs": 1}, "logprobs"),
        ({"ignore_eos": "true"}, "ignore_eos"),
        ({"logit_bias": {"5": True}}, "logit_bias.5"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"chat_template_kwargs": {"enable_thinking": "no"}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": 0}}, "chat_template_kwargs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant"}]}, "messages.0.content"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        (
            {"messages": [{"role": "tool", "content": "x", "tool_call_id": "c1"}]},
            "messages.0.role",
        ),
        ({"messages": ASKED}, "messages.1.tool_calls"),
        ({"messages": [*ASKED, {"role": "user", "content": "x"}]}, "messages.1.tool_calls"),
        (
            {"messages": [*ASKED, {"role": "tool", "content": "x", "tool_call_id": "c2"}]},
            "messages.2.tool_call_id",
        ),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages.0.tool"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "x" * 50_000}]}, "messages"),
        ({"model": None}, "model"),
    ],
)
async def test_what_is_wrong_is_refused_by_name(
    client: httpx.AsyncClient, extra: dict[str, Any], param: str
) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, **extra})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("stop", "param", "says"),
    [
        ("", "stop.0", "at least 1"),
        ([""], "stop.0", "at least 1"),
        ([1], "stop.0", "string"),
        (["a", None], "stop.1", "string"),
        (1, "stop", "list"),
        (["x"] * 17, "stop", "at most 16"),
        ("x" * 50_000, "stop.0", "at most 1000 char"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/api/v1/generate"])
async def test_a_wrong_stop_is_named_with_its_limit(
    client: httpx.AsyncClient, path: str, stop: Any, param: str, says: str
) -> None:
    response = await client.post(path, json={**TEXT, "stop": stop})
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param)
    assert says in error["message"]


@pytest.mark.parametrize(
    "extra", [{"logprobs": True}, {"echo": 1}, {"n": "1"}, {"prompt": [True]}, {"max_tokens": 3.0}]
)
async def test_completions_take_values_of_their_own_types_alone(
    client: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    response = await client.post("/v1/completions", json={**TEXT, **extra})
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(next(iter(extra)))


@pytest.mark.parametrize(
    "extra",
    [
        {"temperature": 1, "top_p": 1, "presence_penalty": 0, "logit_bias": {"5": 1}},
        {"top_p": 0},
        {"messages": CHAT["messages"] * 2},
        {"messages": [{"role": "assistant", "content": "x"}, *CHAT["messages"]]},
        {"chat_template_kwargs": {"enable_thinking": False, "thinking_budget": 5}},
    ],
)
async def test_whole_numbers_for_floats_and_two_users_in_a_row_are_taken(
    client: httpx.AsyncClient, extra: dict[str, Any]
) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, **extra})
    assert response.status_code == 200


BAD_BODIES: list[tuple[bytes, str, str]] = [
    (b'{"model": ' + b"[" * 3000 + b"]" * 3000 + b"}", "application/json", "nested"),
    (b"[" * 3000 + b"]" * 3000, "application/json", "nested too deep"),
    (b'{"model": ' + b"[" * 45_000 + b"]" * 45_000 + b"}", "application/json", "nested too deep"),
    (b"[" * 45_000 + b"]" * 45_000, "application/json", "nested too deep"),
    (b'{"model": "\xff"}', "application/json", "is not UTF-8"),
    (b'{"model": }', "application/json", "is not JSON: expecting value"),
    (b'{"model": "writer", "prompt": "Hello"}', "", "Content-Type: application/json"),
    (
        b'{"model": "writer", "prompt": "Hello"}',
        "application/x-www-form-urlencoded",
        "Content-Type: application/json",
    ),
]


@pytest.mark.parametrize(("body", "kind", "says"), BAD_BODIES)
async def test_a_body_that_cannot_be_read_is_told_why_in_a_sentence(
    client: httpx.AsyncClient, body: bytes, kind: str, says: str
) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = await client.post("/v1/completions", content=body, headers=headers)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert says in message
    assert len(message) < 200
    assert message.endswith(".")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_deadline_that_passed_is_named(client: httpx.AsyncClient, path: str) -> None:
    asked = {**(TEXT if path == "/v1/completions" else CHAT), "model": "slow", "deadline_ms": 1}
    response = await client.post(path, json=asked)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (504, "deadline_ms")


async def test_special_tokens_in_a_message_stay_text(client: httpx.AsyncClient) -> None:
    messages = [{"role": "user", "content": "a~b~"}]
    asked = {"model": "talker", "messages": messages}
    tokens = (await client.post("/tokenize", json=asked)).json()["tokens"]
    assert 0 not in tokens
    plain = [{"role": "user", "content": "ab"}]
    expected = (await client.post("/tokenize", json={**asked, "messages": plain})).json()["tokens"]
    assert tokens == expected  # this vocabulary has no letter "~"


async def test_a_required_call_that_is_cut_off_has_null_for_content(
    client: httpx.AsyncClient,
) -> None:
    said = SAID.partition("\n")[2].removeprefix("Yes.")
    messages = [{"role": "user", "content": said}]
    asked = {**CALLING, "messages": messages, "tool_choice": "required", "max_tokens": 20}
    body = (await client.post("/v1/chat/completions", json=asked)).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"] == {"role": "assistant", "content": None, "refusal": None}
    got = events(await client.post("/v1/chat/completions", json={**asked, "stream": True}))
    assert not any(event["choices"][0]["delta"].get("content") for event in got)


async def test_too_long_a_prompt_is_told_both_numbers(client: httpx.AsyncClient) -> None:
    for count, says in ((300, "has 300 tokens"), (90_000, "has at least ")):
        response = await client.post("/v1/completions", json={**TEXT, "prompt": "x" * count})
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "context_length_exceeded")
        assert says in error["message"]
        assert "holds 200" in error["message"]


async def test_a_missing_model_is_a_404(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/chat/completions", json={**CHAT, "model": "nobody"})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found")
    assert error["param"] == "model"
    shown = await client.get("/v1/models/nobody")
    assert (shown.status_code, shown.json()["error"]["param"]) == (404, "model")


# -- tools and reasoning: the echo engine says again what the prompt says --------------------------

SAID = 'so be it</think>\nYes.<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
CALLING = {"model": "caller", "tools": [TOOL], "messages": [{"role": "user", "content": SAID}]}
SPOKEN = {**CALLING, "tools": None, "messages": [{"role": "user", "content": f"<think>{SAID}"}]}


async def test_tool_calls_and_reasoning_are_told_apart_from_content(
    client: httpx.AsyncClient,
) -> None:
    body = (await client.post("/v1/chat/completions", json=SPOKEN)).json()
    message = body["choices"][0]["message"]
    assert message["reasoning_content"] == "so be it"
    assert message["content"].startswith("Yes.<tool_call>")  # no tools, no calls
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(
        "<think>so be it</think>"
    ) - len("<think")
    asked = {**CALLING, "messages": [{"role": "user", "content": SAID.partition("\n")[2]}]}
    body = (await client.post("/v1/chat/completions", json=asked)).json()
    choice = body["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    assert call["id"].startswith("call_")
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}


async def test_streamed_calls_begin_with_id_and_name(client: httpx.AsyncClient) -> None:
    got = events(await client.post("/v1/chat/completions", json={**CALLING, "stream": True}))
    deltas = [event["choices"][0]["delta"] for event in got]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert calls[0]["function"] == {"name": "f", "arguments": ""}
    assert (calls[0]["index"], calls[0]["type"]) == (0, "function")
    assert all(set(call) == {"index", "function"} for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == '{"a": 1}'
    assert len(calls) > 3
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_conversation_may_hold_calls_and_their_answers(client: httpx.AsyncClient) -> None:
    messages = [*ASKED, {"role": "tool", "content": "42", "tool_call_id": "c1"}]
    response = await client.post("/v1/chat/completions", json={**CHAT, "messages": messages})
    assert response.json()["choices"][0]["message"]["content"] == "u:x\na:\nt:42\na:"


async def test_echo_without_output_is_the_prompt(client: httpx.AsyncClient) -> None:
    asked = {"model": "writer", "prompt": ["ab", "cd"], "echo": True, "max_tokens": 0}
    body = (await client.post("/v1/completions", json=asked)).json()
    assert [choice["text"] for choice in body["choices"]] == ["ab", "cd"]
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (4, 0)


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
