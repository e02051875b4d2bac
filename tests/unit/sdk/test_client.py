from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from llmos import errors
from llmos.sdk.client import Client
from llmos.sdk.models import Model
from llmos.sdk.transport import error_of, lines_of, sse_data
from llmos.types import ToolCallDelta

ClientOf = Callable[..., Client]


def sse(*events: dict[str, Any], done: bool = True) -> httpx.Response:
    text = "".join(f"data: {json.dumps(event)}\n\n: ping\n\n" for event in events)
    return httpx.Response(200, text=text + ("data: [DONE]\n\n" if done else ""))


def every_error() -> list[type[errors.LlmosError]]:
    found, todo = [], [errors.LlmosError]
    while todo:
        cls = todo.pop()
        found.append(cls)
        todo += cls.__subclasses__()
    return [cls for cls in found if cls.__module__ == "llmos.errors"]


@pytest.mark.parametrize("cls", every_error())
def test_every_typed_error_comes_back_as_itself(
    client_of: ClientOf, cls: type[errors.LlmosError]
) -> None:
    body = {"error": {"message": "what", "type": cls.type, "code": cls.code, "param": "p"}}
    client = client_of(lambda _: httpx.Response(max(cls.status, 400), json=body))
    with pytest.raises(errors.LlmosError) as raised:
        client.models()
    assert type(raised.value) is cls
    assert (raised.value.message, raised.value.param) == ("what", "p")


def test_an_error_that_only_the_server_knows_is_one_of_its_kind(client_of: ClientOf) -> None:
    body = {"error": {"message": "what", "type": "x", "code": "annotation_surely_unknown"}}
    kinds = {404: errors.NotFoundError, 409: errors.ConflictError, 418: errors.LlmosError}
    for status, cls in kinds.items():
        client = client_of(lambda _, status=status: httpx.Response(status, json=body))
        with pytest.raises(errors.LlmosError) as raised:
            client.models()
        assert type(raised.value) is cls and raised.value.code == "annotation_surely_unknown"
    assert raised.value.exit_code == 1 and errors.NotFoundError.code == "not_found"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": "x"}'])
def test_an_answer_that_is_no_error_body_is_still_an_error(body: bytes) -> None:
    assert "502" in error_of(502, body).message


def test_no_server_is_unreachable() -> None:
    with Client("http://127.0.0.1:1") as client, pytest.raises(errors.UnreachableError):
        client.health()


def test_events_are_data_lines_between_blank_lines() -> None:
    lines = ["data: a", "", ": ping", "", "event: x", "data:b", "data: c", "", "data: cut"]
    assert list(sse_data(iter(lines))) == ["a", "b\nc"]


def test_lines_end_in_newlines_alone() -> None:
    data = 'data: {"text": "a\u2028b\u2029c\x85d\x0be\x1cf"}\r\n\ndata: é\n\nrest'.encode()
    whole = ['data: {"text": "a\u2028b\u2029c\x85d\x0be\x1cf"}', "", "data: é", "", "rest"]
    for size in (1, 2, 3, len(data)):
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert list(lines_of(pieces)) == whole


def test_a_stream_may_hold_unicode_line_separators(client_of: ClientOf) -> None:
    event = json.dumps({"text": "a\u2028b\u2029c\x85d"}, ensure_ascii=False)
    text = f"data: {event}\n\ndata: [DONE]\n\n"
    stream = client_of(lambda _: httpx.Response(200, content=text.encode()))
    chunks = list(stream.generate("m", "x", stream=True))
    assert chunks == [{"text": "a\u2028b\u2029c\x85d"}]


def test_a_stream_is_chunks_then_the_end(client_of: ClientOf) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 2}
    last = {"index": 0, "text": "b", "finish_reason": "stop", "usage": usage}
    client = client_of(lambda _: sse({"index": 0, "text": "a"}, last))
    model = Model(client, {"ref": "m:1"})
    chunks = list(model.chat([{"role": "user", "content": "x"}], stream=True))
    assert [chunk.text for chunk in chunks] == ["a", "b"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2


def test_chunks_have_reasoning_and_tool_calls(client_of: ClientOf) -> None:
    call = {"index": 0, "id": "c1", "name": "f", "arguments": ""}
    more = {"index": 0, "id": None, "name": None, "arguments": "{}"}
    pieces = [{"text": "", "reasoning": "hm"}, {"text": "", "tool_calls": [call, more]}]
    model = Model(client_of(lambda _: sse(*pieces)), {"ref": "m:1"})
    first, second = model.chat([{"role": "user", "content": "x"}], stream=True, tools=[])
    assert first.reasoning == "hm"
    assert second.tool_calls == (
        ToolCallDelta(0, "c1", "f"),
        ToolCallDelta(0, arguments="{}"),
    )


def test_an_error_inside_a_stream_is_raised(client_of: ClientOf) -> None:
    error = {"error": {"message": "gone", "type": "server_error", "code": "engine_error"}}
    stream = client_of(lambda _: sse({"text": "a"}, error)).generate("m", "x", stream=True)
    assert next(stream)["text"] == "a"
    with pytest.raises(errors.EngineError, match="gone"):
        next(stream)


def test_a_stream_cut_off_is_noticed(client_of: ClientOf) -> None:
    stream = client_of(lambda _: sse({"text": "a"}, done=False)).generate("m", "x", stream=True)
    with pytest.raises(errors.UnreachableError, match="before its answer was whole"):
        list(stream)


def test_what_is_not_given_is_not_sent(client_of: ClientOf) -> None:
    sent: list[Any] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"text": "y"})

    client = client_of(handler)
    client.generate("m", "x", temperature=None, seed=0)
    assert Model(client, {"ref": "m:1"}).generate("x") == "y"
    assert sent == [{"model": "m", "prompt": "x", "seed": 0}, {"model": "m:1", "prompt": "x"}]


def test_a_model_gives_one_answer(client_of: ClientOf) -> None:
    model = Model(client_of(lambda _: httpx.Response(500)), {"ref": "m:1"})
    with pytest.raises(errors.InvalidRequestError, match=r"Client\.generate"):
        model.generate("x", n=2)


def test_references_are_quoted(client_of: ClientOf) -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path.decode())
        return httpx.Response(200, json={})

    client = client_of(handler)
    for ref in ("a/b:2@x", "a b?c#d"):
        client.model(ref)
    assert seen == ["/api/v1/models/a/b:2@x", "/api/v1/models/a%20b%3Fc%23d"]


def test_jobs_are_asked_for_by_the_page(client_of: ClientOf) -> None:
    asked: list[dict[str, str]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(dict(request.url.params))
        return httpx.Response(200, json={"data": []})

    client = client_of(handler)
    assert client.jobs() == [] == client.jobs(limit=5, before=9)
    assert asked == [{"limit": "100"}, {"limit": "5", "before": "9"}]


def test_tasks_and_their_models(client_of: ClientOf) -> None:
    sent: list[tuple[str, str, bytes]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        sent.append((request.method, request.url.path, request.content))
        row = {"task": "sentiment", "model": "judge"}
        return httpx.Response(200, json=row if request.method == "PUT" else {"data": [row]})

    client = client_of(handler)
    assert client.task_defaults() == {"sentiment": "judge"}
    assert client.set_task_default("sentiment", "judge") == {"task": "sentiment", "model": "judge"}
    assert [one[:2] for one in sent] == [("GET", "/api/v1/tasks"), ("PUT", "/api/v1/tasks")]
    assert json.loads(sent[1][2]) == {"task": "sentiment", "model": "judge"}


# -- following jobs ------------------------------------------------------------------------------


def event(number: int, kind: str = "log") -> dict[str, Any]:
    return {"id": number, "type": kind, "data": {}, "at": 0.0}


def test_following_goes_on_where_the_server_went_away(client_of: ClientOf) -> None:
    asked: list[str] = []
    answers = [sse(event(1), event(2), event(0), done=False), None, sse(event(3))]

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.params["after"])
        answer = answers.pop(0)
        if answer is None:
            raise httpx.ConnectError("refused")
        return answer

    got = [one["id"] for one in client_of(handler).job_events(7)]
    assert got == [1, 2, 0, 3]
    assert asked == ["0", "2", "2"]


def test_following_gives_up_after_half_a_minute(client_of: ClientOf) -> None:
    tries = 0

    def handler(request: httpx.Request) -> httpx.Response:
        nonlocal tries
        tries += 1
        raise httpx.ConnectError("refused")

    client = client_of(handler)
    with pytest.raises(errors.UnreachableError):
        list(client.job_events(7))
    assert tries > 20
    tries = 0
    with pytest.raises(errors.UnreachableError):
        list(client.job_events(7, follow=False))
    assert tries == 1


@pytest.mark.parametrize(
    ("state", "error"),
    [("succeeded", None), ("failed", errors.JobFailedError), ("cancelled", errors.CancelledError)],
)
def test_waiting_says_how_it_ended(
    client_of: ClientOf, state: str, error: type[Exception] | None
) -> None:
    job = {"id": 7, "name": "n", "state": state, "error": {"code": "c", "message": "why"}}

    def handler(request: httpx.Request) -> httpx.Response:
        return (
            sse(event(1)) if request.url.path.endswith("events") else httpx.Response(200, json=job)
        )

    client = client_of(handler)
    if error is None:
        assert client.wait(7) == job
    else:
        with pytest.raises(error, match="why" if state == "failed" else "cancelled"):
            client.wait(7)
