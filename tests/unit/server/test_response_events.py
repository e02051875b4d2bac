"""The Responses API's events, made of chunks alone."""

from __future__ import annotations

from typing import Any

from llmos.errors import EngineError, OverloadedError
from llmos.server.response_events import ResponseEvents
from llmos.types import Chunk, TokenLogprob, ToolCallDelta, Usage


def made(*chunks: Chunk, with_logprobs: bool = False) -> tuple[list[dict[str, Any]], Any]:
    writer = ResponseEvents({"status": "in_progress", "output": []}, with_logprobs=with_logprobs)
    events = [*writer.begin()]
    for chunk in chunks:
        events += writer.push(chunk)
    return [*events, writer.end()], writer.response


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


DONE = Chunk(finish_reason="stop", usage=Usage(3, 2, cached_tokens=1, reasoning_tokens=1))


def test_a_text_is_one_message_between_its_beginning_and_its_end() -> None:
    events, response = made(Chunk(text="Hel"), Chunk(text="lo"), DONE)
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(10))
    (message,) = response["output"]
    assert message["content"] == [{"type": "output_text", "text": "Hello", "annotations": []}]
    assert (message["role"], message["status"]) == ("assistant", "completed")
    assert response["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 5,
    }


def test_what_was_added_does_not_change_when_more_comes() -> None:
    events, _ = made(Chunk(text="a"), DONE)
    added = next(event for event in events if event["type"].endswith("item.added"))
    assert (added["item"]["status"], added["item"]["content"]) == ("in_progress", [])


def test_thoughts_text_and_calls_are_items_of_their_own_in_order() -> None:
    events, response = made(
        Chunk(reasoning="Hm"),
        Chunk(reasoning="m."),
        Chunk(text="Let me see."),
        Chunk(tool_calls=(ToolCallDelta(0, "call_1", "add"),)),
        Chunk(tool_calls=(ToolCallDelta(0, arguments='{"a":'),)),
        Chunk(tool_calls=(ToolCallDelta(0, arguments="1}"), ToolCallDelta(1, "call_2", "now"))),
        Chunk(finish_reason="tool_calls", usage=Usage(1, 1)),
    )
    thoughts, message, add, now = response["output"]
    assert thoughts["content"] == [{"type": "reasoning_text", "text": "Hmm."}]
    assert message["content"][0]["text"] == "Let me see."
    assert (add["call_id"], add["name"], add["arguments"]) == ("call_1", "add", '{"a":1}')
    assert (now["call_id"], now["name"], now["arguments"]) == ("call_2", "now", "")
    assert response["status"] == "completed"
    deltas = [event for event in events if event["type"].endswith("arguments.delta")]
    assert {event["output_index"] for event in deltas} == {2}
    assert {event["item_id"] for event in deltas} == {add["id"]}
    assert kinds(events).count("output_item.done") == 4


def test_an_answer_cut_off_is_incomplete_and_says_why() -> None:
    events, response = made(
        Chunk(text="a"), Chunk(text="b", finish_reason="length", usage=Usage(1, 2))
    )
    assert events[-1]["type"] == "response.incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "ab"


def test_an_empty_answer_is_an_empty_message() -> None:
    _, response = made(DONE)
    assert response["output"][0]["content"][0]["text"] == ""


def test_an_error_midway_ends_the_open_item_and_the_response() -> None:
    writer = ResponseEvents({"status": "in_progress", "output": []})
    list(writer.push(Chunk(text="a")))
    events = list(writer.fail(EngineError("it died")))
    assert kinds(events)[-2:] == ["output_item.done", "failed"]
    assert writer.response["error"] == {"code": "server_error", "message": "it died"}
    assert writer.response["output"][0]["status"] == "incomplete"
    writer = ResponseEvents({"status": "in_progress", "output": []})
    (failed,) = writer.fail(OverloadedError("later"))
    assert failed["response"]["error"]["code"] == "rate_limit_exceeded"


def test_logprobs_are_the_texts_own() -> None:
    token = TokenLogprob("a", -0.5, b"a", (TokenLogprob("b", -1.0, b"b"),))
    chunks = (Chunk(text="a", logprobs=(token,)), DONE)
    wanted = {"token": "a", "logprob": -0.5, "bytes": [97]}
    wanted["top_logprobs"] = [{"token": "b", "logprob": -1.0, "bytes": [98]}]
    events, response = made(*chunks, with_logprobs=True)
    assert response["output"][0]["content"][0]["logprobs"] == [wanted]
    assert [e["logprobs"] for e in events if e["type"].endswith("text.delta")] == [[wanted]]
    assert "logprobs" not in made(*chunks)[1]["output"][0]["content"][0]
