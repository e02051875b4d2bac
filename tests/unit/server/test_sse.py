from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from llmos.errors import EngineError, OutOfMemoryError
from llmos.server import sse
from llmos.server.errors import ClientGoneError
from llmos.server.sse import EventStream, Framing


class Wire:
    """A client's end: what was sent, and when it leaves."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.leaves = asyncio.Event()
        self.got_body = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.leaves.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.got_body.set()

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    async def run(self, stream: EventStream) -> None:
        await stream({"type": "http"}, self.receive, self.send)


async def numbers(upto: int, error: Exception | None = None) -> AsyncGenerator[Any, None]:
    for number in range(upto):
        yield {"n": number}
    if error is not None:
        raise error


async def test_events_then_done() -> None:
    wire = Wire()
    await wire.run(EventStream(numbers(2)))
    assert wire.text == 'data: {"n":0}\n\ndata: {"n":1}\n\ndata: [DONE]\n\n'
    assert dict(wire.sent[0]["headers"])[b"content-type"].startswith(b"text/event-stream")


async def test_a_framing_of_its_own_says_how_everything_is_written() -> None:
    framing = Framing(
        "application/x-lines",
        encode=lambda event: f"{event}\n".encode(),
        end=b"bye",
        keep_alive=b"",
        error=lambda error: {"wrong": error.message},
    )
    wire = Wire()
    await wire.run(EventStream(numbers(1), framing=framing))
    assert wire.text == "{'n': 0}\nbye"
    wire = Wire()
    await wire.run(EventStream(numbers(1, EngineError("it died")), framing=framing))
    assert wire.text == "{'n': 0}\n{'wrong': 'it died'}\n"
    assert dict(wire.sent[0]["headers"])[b"content-type"] == b"application/x-lines"


async def test_an_error_before_the_first_event_sends_nothing() -> None:
    wire = Wire()
    with pytest.raises(OutOfMemoryError):
        await wire.run(EventStream(numbers(0, OutOfMemoryError())))
    assert wire.sent == []


@pytest.mark.parametrize(
    ("error", "code"), [(EngineError("gone"), "engine_error"), (KeyError("x"), "internal_error")]
)
async def test_an_error_later_is_the_last_event(error: Exception, code: str) -> None:
    wire = Wire()
    await wire.run(EventStream(numbers(1, error)))
    first, last = wire.text.removesuffix("\n\n").split("\n\n")
    assert first == 'data: {"n":0}'
    assert json.loads(last[6:])["error"]["code"] == code
    assert "x" not in json.loads(last[6:])["error"]["message"].split()


async def test_a_client_that_leaves_closes_the_events() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[Any, None]:
        try:
            yield {"n": 0}
            await asyncio.Event().wait()
        finally:
            closed.set()

    wire = Wire()
    running = asyncio.create_task(wire.run(EventStream(endless())))
    await wire.got_body.wait()
    wire.leaves.set()
    await running
    assert closed.is_set()


async def test_a_client_that_leaves_before_the_first_event_closes_them_too() -> None:
    closed, waiting = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncGenerator[Any, None]:
        try:
            waiting.set()
            await asyncio.Event().wait()
            yield {}
        finally:
            closed.set()

    wire = Wire()
    running = asyncio.create_task(wire.run(EventStream(slow())))
    await waiting.wait()
    wire.leaves.set()
    await running
    assert closed.is_set()
    assert wire.sent == []


async def test_a_silent_stream_is_kept_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE_S", 0.0)
    until, wire = asyncio.Event(), Wire()

    async def silent() -> AsyncGenerator[Any, None]:
        await asyncio.Event().wait()
        yield {}

    running = asyncio.create_task(wire.run(EventStream(silent(), until)))
    await wire.got_body.wait()
    until.set()
    await running
    assert set(wire.text.removesuffix("\n\n").split("\n\n")) == {": keep-alive"}
    assert wire.sent[-1] == {"type": "http.response.body", "body": b""}


class DeafWire(Wire):
    """A client that stays, and takes nothing after so many messages."""

    def __init__(self, num_taken: int) -> None:
        super().__init__()
        self.num_taken = num_taken

    async def send(self, message: Any) -> None:
        if len(self.sent) == self.num_taken:
            await asyncio.Event().wait()
        await super().send(message)


@pytest.mark.parametrize("num_taken", [1, 3])
@pytest.mark.parametrize("has_end", [False, True])
async def test_a_client_that_takes_nothing_any_more_is_given_up(
    num_taken: int, has_end: bool
) -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncGenerator[Any, None]:
        try:
            while True:
                yield {"n": 0}
        finally:
            closed.set()

    wire = DeafWire(num_taken)
    until = asyncio.Event() if has_end else None
    await wire.run(EventStream(endless(), until, send_timeout_s=0.0))
    assert closed.is_set()
    assert len(wire.sent) == num_taken


async def test_a_stream_that_has_begun_sends_what_it_began_with() -> None:
    wire, stream = Wire(), EventStream(numbers(2))
    await stream.begin(wire.receive)
    assert wire.sent == []
    await wire.run(stream)
    assert wire.text == 'data: {"n":0}\n\ndata: {"n":1}\n\ndata: [DONE]\n\n'


async def test_an_error_before_the_first_event_is_raised_to_who_begins() -> None:
    wire, stream = Wire(), EventStream(numbers(0, OutOfMemoryError()))
    with pytest.raises(OutOfMemoryError):
        await stream.begin(wire.receive)
    assert wire.sent == []


async def test_a_client_that_leaves_before_the_first_event_ends_the_work() -> None:
    wire, closed = Wire(), asyncio.Event()

    async def endless() -> AsyncGenerator[Any, None]:
        try:
            await asyncio.Event().wait()
            yield {}
        finally:
            closed.set()

    wire.leaves.set()
    with pytest.raises(ClientGoneError):
        await EventStream(endless()).begin(wire.receive)
    assert closed.is_set()


@pytest.mark.parametrize("error", [None, EngineError("it died")])
async def test_the_end_of_a_stream_is_told_with_its_error(error: EngineError | None) -> None:
    ends: list[Any] = []
    wire, stream = Wire(), EventStream(numbers(2, error))
    await stream.begin(wire.receive)
    stream.on_end(ends.append)
    await wire.run(stream)
    assert ends == [error]
