"""The unmodified `openai` client's Responses API against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.echoserver import EchoServer

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
ADD: Any = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    "strict": False,
}


class Point(BaseModel):
    x: int
    y: int


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EchoServer]:
    started = EchoServer(tmp_path_factory.mktemp("home"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def ai(server: EchoServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as made:
        yield made


def test_a_response_is_created_retrieved_listed_and_deleted(ai: openai.OpenAI) -> None:
    made = ai.responses.create(model="talker", input="你好, hi", metadata={"a": "b"})
    assert (made.output_text, made.status) == ("你好, hi", "completed")
    assert made.usage is not None
    assert (made.usage.input_tokens, made.usage.output_tokens) == (6, 6)
    again = ai.responses.retrieve(made.id)
    assert again == made
    (item,) = ai.responses.input_items.list(made.id)
    assert item.type == "message"
    assert item.role == "user"
    ai.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="no response"):
        ai.responses.retrieve(made.id)


def test_a_stream_is_accumulated_by_the_clients_own_helper(ai: openai.OpenAI) -> None:
    with ai.responses.stream(model="talker", input="Hello world") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    assert "response.output_text.delta" in kinds
    assert final.output_text == "Hello world"
    assert ai.responses.retrieve(final.id).output_text == "Hello world"


def test_raw_events_carry_the_text(ai: openai.OpenAI) -> None:
    events = ai.responses.create(model="talker", input="Hello", stream=True)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == "Hello"


def test_a_conversation_goes_on_from_a_stored_response(ai: openai.OpenAI) -> None:
    first = ai.responses.create(model="talker", input="one")
    second = ai.responses.create(model="talker", input="two", previous_response_id=first.id)
    assert (second.output_text, second.previous_response_id) == ("two", first.id)
    ai.responses.delete(first.id)
    with pytest.raises(openai.BadRequestError, match="cannot go on") as caught:
        ai.responses.create(model="talker", input="three", previous_response_id=second.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_tool_is_called_and_answered(ai: openai.OpenAI) -> None:
    asked = ai.responses.create(model="talker", input=CALL, tools=[ADD])
    (call,) = asked.output
    assert call.type == "function_call"
    assert (call.name, call.arguments) == ("add", '{"a": 1, "b": 2}')
    answer: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
    told = ai.responses.create(
        model="talker", input=[answer], previous_response_id=asked.id, tools=[ADD]
    )
    assert told.output_text == "3"
    by_hand: list[Any] = [
        {"role": "user", "content": CALL},
        *(item.model_dump(exclude_none=True) for item in asked.output),
        answer,
    ]
    assert ai.responses.create(model="talker", input=by_hand, tools=[ADD]).output_text == "3"


def test_a_streamed_call_is_accumulated_by_the_client(ai: openai.OpenAI) -> None:
    with ai.responses.stream(model="talker", input=CALL, tools=[ADD]) as stream:
        deltas = [e.delta for e in stream if e.type == "response.function_call_arguments.delta"]
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert "".join(deltas) == call.arguments == '{"a": 1, "b": 2}'


def test_structured_output_is_parsed(ai: openai.OpenAI) -> None:
    made = ai.responses.parse(model="talker", input='{"x": 1, "y": 2}', text_format=Point)
    assert made.output_parsed == Point(x=1, y=2)


def test_thoughts_are_an_item_of_their_own(ai: openai.OpenAI) -> None:
    made = ai.responses.create(model="thinker", input="hm")
    thoughts, message = made.output
    assert thoughts.type == "reasoning"
    assert thoughts.content is not None
    assert thoughts.content[0].text == "hm"
    assert (message.type, made.output_text) == ("message", "ok")


def test_mistakes_are_the_clients_own_errors(ai: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="nobody"):
        ai.responses.create(model="nobody", input="x")
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="2000"):
            ai.responses.create(model="talker", input="x" * 3000, stream=stream)  # type: ignore[call-overload]
    with pytest.raises(openai.BadRequestError) as caught:
        ai.responses.create(model="talker", input="x", top_p=7)
    assert caught.value.param == "top_p"
