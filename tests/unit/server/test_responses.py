"""/v1/responses over the echo engine, which says again what its template makes of the turns."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from llmos.server.responses_wire import ResponseBody, to_messages
from llmos.types import Grammar, Message, ToolCall

pytestmark = pytest.mark.asyncio(loop_scope="module")
ASKED: dict[str, Any] = {"model": "talker", "input": "hi"}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(
    make_system: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Any]:
    async with make_system(tmp_path_factory.mktemp("home")) as opened:
        yield opened


async def create(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post("/v1/responses", json=ASKED | changes)
    assert response.status_code == 200, response.text
    body: dict[str, Any] = response.json()
    return body


def text_of(body: dict[str, Any]) -> str:
    (message,) = body["output"]
    text: str = message["content"][0]["text"]
    return text


async def test_a_response_says_what_was_asked_and_what_came_of_it(
    client: httpx.AsyncClient,
) -> None:
    body = await create(client, metadata={"a": "b"}, instructions="Be brief", temperature=0)
    assert body["id"].startswith("resp_")
    assert (body["object"], body["status"], body["model"]) == ("response", "completed", "talker:1")
    assert text_of(body) == "s:Be brief\nu:hi\na:"
    assert (body["metadata"], body["temperature"], body["store"]) == ({"a": "b"}, 0.0, True)
    assert body["usage"]["total_tokens"] == 36
    assert body["error"] is body["incomplete_details"] is None


async def test_events_are_typed_numbered_and_end_with_the_whole(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/responses", json={**ASKED, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.strip().split("\n\n")
    assert blocks.pop() == "data: [DONE]"
    events = []
    for block in blocks:
        named, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert named == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events][:2] == ["response.created", "response.in_progress"]
    deltas = [event["delta"] for event in events if event["type"].endswith("text.delta")]
    assert "".join(deltas) == "u:hi\na:"
    assert events[-1]["type"] == "response.completed"
    stored = await client.get(f"/v1/responses/{events[-1]['response']['id']}")
    assert stored.json() == events[-1]["response"]


async def test_an_answer_cut_off_is_incomplete(client: httpx.AsyncClient) -> None:
    body = await create(client, max_output_tokens=3)
    assert (body["status"], text_of(body)) == ("incomplete", "u:h")
    assert body["incomplete_details"] == {"reason": "max_output_tokens"}


async def test_a_stored_response_is_read_listed_and_deleted(client: httpx.AsyncClient) -> None:
    items = [{"role": "user", "content": word} for word in ("one", "two", "three")]
    made = await create(client, input=items)
    address = f"/v1/responses/{made['id']}"
    assert (await client.get(address)).json() == made
    listed = (await client.get(f"{address}/input_items?limit=2")).json()
    assert [item["content"][0]["text"] for item in listed["data"]] == ["three", "two"]
    assert listed["has_more"]
    rest = await client.get(f"{address}/input_items?after={listed['last_id']}")
    assert [item["content"][0]["text"] for item in rest.json()["data"]] == ["one"]
    assert (await client.delete(address)).json()["deleted"] is True
    for gone in (await client.get(address), await client.delete(address)):
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "response_not_found")


async def test_only_its_owner_may_read_delete_or_go_on_from_a_response(
    client: httpx.AsyncClient, new_client: Callable[..., httpx.AsyncClient]
) -> None:
    alice, bob = new_client("user", name="alice"), new_client("user", name="bob")
    made = await create(alice)
    address = f"/v1/responses/{made['id']}"
    for other in (bob, client):
        assert (await other.get(address)).status_code == 404
        assert (await other.delete(address)).status_code == 404
        assert (await other.get(f"{address}/input_items")).status_code == 404
        asked = {**ASKED, "previous_response_id": made["id"]}
        refused = await other.post("/v1/responses", json=asked)
        assert refused.json()["error"]["code"] == "previous_response_not_found"
    assert (await alice.get(address)).status_code == 200


async def test_what_is_not_to_be_stored_is_not(client: httpx.AsyncClient) -> None:
    made = await create(client, store=False)
    assert made["store"] is False
    assert (await client.get(f"/v1/responses/{made['id']}")).status_code == 404


async def test_a_key_that_may_not_store_answers_without(
    new_client: Callable[..., httpx.AsyncClient],
) -> None:
    client = new_client("user", actions={"generate"})
    assert (await create(client))["store"] is False
    refused = await client.post("/v1/responses", json={**ASKED, "store": True})
    assert refused.status_code == 403


async def test_a_conversation_goes_on_with_new_instructions(client: httpx.AsyncClient) -> None:
    first = await create(client, instructions="A")
    second = await create(client, previous_response_id=first["id"], input="more", instructions="B")
    assert text_of(second) == "s:B\nu:hi\na:s:A\nu:hi\na:\nu:more\na:"
    assert second["previous_response_id"] == first["id"]


async def test_gc_sweeps_responses_whose_time_is_over(
    client: httpx.AsyncClient, system: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await create(client)
    late = system.keys.clock() + 31 * 86400
    with monkeypatch.context() as patch:
        patch.setattr(system.keys, "clock", lambda: late)
        assert (await client.post("/api/v1/gc", json={})).status_code == 200
    assert (await client.get(f"/v1/responses/{made['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input": []}, "input"),
        ({"input": 3}, "input"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role"),
        ({"input": [{"type": "computer_call"}]}, "input.0"),
        ({"input": [{"role": "user"}]}, "input.0.content"),
        ({"input": [5]}, "input.0"),
        ({"input": [{"role": "user", "content": [5]}]}, "input.0.content.0"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input.0.content.0.type",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"metadata": {"a": "x" * 513}}, "metadata"),
        ({"metadata": {str(n): "x" for n in range(17)}}, "metadata"),
        ({"tools": [{"type": "web_search"}]}, "tools.0"),
        ({"tools": [{**ADD, "name": ""}]}, "tools.0.name"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "sub"}, "tools": [ADD]}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}},
            "text.format.schema",
        ),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"truncation": "auto"}, "truncation"),
        ({"input": "hi", "max_tokens": 3}, "max_tokens"),
        ({"surprise": 1}, "surprise"),
        ({"input": "x" * 300}, "input"),
        ({"model": "nobody"}, "model"),
    ],
)
async def test_a_mistake_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], param: str
) -> None:
    for stream in (False, True):
        asked = {**ASKED, **change, "stream": stream}
        response = await client.post("/v1/responses", json=asked)
        assert response.status_code in (400, 404), response.text
        error = response.json()["error"]
        assert (error["param"] or "model").startswith(param)
        assert error["type"] == "invalid_request_error"
        assert not re.search(r"\bmessages\b|response_format|\.message\.", str(error)), error


async def test_max_tokens_is_told_by_its_name_here(client: httpx.AsyncClient) -> None:
    error = (await client.post("/v1/responses", json={**ASKED, "max_tokens": 5})).json()["error"]
    assert error["param"] == "max_tokens"
    assert "max_output_tokens" in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b'{"model": "talker", "input": "\\ud800"}',
        b'{"model": "talker", "input": ' + b"[" * 40_000 + b"]" * 40_000 + b"}",
        b'{"model": "talker", "input": [{"role": "user", "content": '
        + b"[" * 50
        + b"]" * 53
        + b"}",
    ],
    ids=["cut off", "half a character", "deep", "too deep"],
)
async def test_what_is_no_request_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/responses", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_items_become_turns_and_what_one_answer_has_is_one() -> None:
    def said(*texts: str) -> list[dict[str, str]]:
        return [{"type": "input_text", "text": text} for text in texts]

    items = [
        {"type": "message", "role": "developer", "content": said("Rules. ", "More.")},
        {"type": "message", "role": "user", "content": said("1+1?")},
        {"type": "reasoning", "summary": [], "content": [{"text": "easy"}]},
        {"type": "message", "role": "assistant", "content": said("Let me add.")},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "add", "arguments": "[]"},
        {"type": "function_call_output", "call_id": "c1", "output": said("2")},
        {"type": "function_call_output", "call_id": "c2", "output": said("3")},
        {"type": "message", "role": "assistant", "content": [{"refusal": "No."}]},
    ]
    calls = (ToolCall("c1", "add", "{}"), ToolCall("c2", "add", "[]"))
    assert to_messages("First.", items) == (
        Message("system", "First."),
        Message("system", "Rules. More."),
        Message("user", "1+1?"),
        Message("assistant", "Let me add.", reasoning="easy", tool_calls=calls),
        Message("tool", "2", tool_call_id="c1"),
        Message("tool", "3", tool_call_id="c2"),
        Message("assistant", "No."),
    )


async def test_formats_and_tools_become_a_grammar_and_a_use_of_tools() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "x", "schema": schema, "strict": True}
    body = ResponseBody.model_validate({**ASKED, "text": {"format": wanted}})
    assert body.terms()["grammar"] == Grammar("json_schema", json.dumps(schema))
    body = ResponseBody.model_validate({**ASKED, "text": {"format": {"type": "json_object"}}})
    assert body.terms()["grammar"] == Grammar("json_object")
    assert ResponseBody.model_validate(ASKED).terms()["grammar"] is None
    tools = [ADD, {**ADD, "name": "sub", "description": "minus"}]
    allowed = {"type": "allowed_tools", "mode": "required"}
    allowed["tools"] = [{"type": "function", "name": "sub"}]  # type: ignore[assignment]
    for choice, names, wanted_choice in (
        (None, ["add", "sub"], "auto"),
        ("none", ["add", "sub"], "none"),
        ({"type": "function", "name": "sub"}, ["add", "sub"], "sub"),
        (allowed, ["sub"], "required"),
    ):
        body = ResponseBody.model_validate({**ASKED, "tools": tools, "tool_choice": choice})
        use = body.tool_use()
        assert ([tool.name for tool in use.tools], use.choice) == (names, wanted_choice)
