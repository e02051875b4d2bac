"""Asking OpenAI-compatible servers for streams, and noting when each piece came.

A bare HTTP/1.1 client on asyncio: it shares the machine with the server it times, so it must cost
next to nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

PATH = "/v1/completions"


@dataclass(slots=True)
class Stream:
    """What came of one request. Times are of `time.perf_counter`."""

    begun: float = 0.0
    times: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    num_prompt: int = 0
    num_written: int = 0
    error: str = ""

    @property
    def ttft_s(self) -> float:
        return self.times[0] - self.begun

    @property
    def gaps_s(self) -> list[float]:
        """The seconds between pieces."""
        return [b - a for a, b in zip(self.times, self.times[1:], strict=False)]

    @property
    def token_times(self) -> list[float]:
        """The moment of every token, where a piece may hold several."""
        share = self.num_written / max(len(self.times), 1)
        return [self.times[int(i / share)] for i in range(self.num_written)]

    @property
    def text(self) -> str:
        return "".join(self.texts)


class _Choice(msgspec.Struct):
    text: str = ""


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class HttpError(Exception):
    """The server answered with another status than 200."""


async def stream(
    port: int, body: Mapping[str, Any], headers: Mapping[str, str], into: Stream | None = None
) -> Stream:
    """Ask and read to the end, noting it in ``into``. What goes wrong is said in ``error``."""
    result = into or Stream()
    result.begun = time.perf_counter()
    try:
        async for event in events(port, body, headers):
            if event == b"[DONE]":
                break
            _note(result, _decode(event))
    except (OSError, EOFError, HttpError, ValueError) as error:
        result.error = f"{type(error).__name__}: {error}"
    return result


def _note(result: Stream, event: _Event) -> None:
    if event.error is not None:
        result.error = str(event.error)
    if event.choices and event.choices[0].text:
        result.times.append(time.perf_counter())
        result.texts.append(event.choices[0].text)
    if event.usage is not None:
        result.num_prompt = event.usage.prompt_tokens
        result.num_written = event.usage.completion_tokens


async def events(
    port: int, body: Mapping[str, Any], headers: Mapping[str, str]
) -> AsyncIterator[bytes]:
    """Yield the data of each server-sent event of a completion."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    try:
        writer.write(request("POST", PATH, headers, json.dumps(body).encode()))
        await writer.drain()
        rest = b""
        async for piece in _body(reader):
            *whole, rest = (rest + piece).replace(b"\r\n", b"\n").split(b"\n\n")
            for event in whole:
                if event.startswith(b"data: "):
                    yield event[6:]
    finally:
        writer.close()


def request(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    fields = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "Connection": "close",
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


async def _body(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Yield the pieces of an answer's body. Raises HttpError where the status is not 200."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    is_chunked = "transfer-encoding: chunked" in head
    if head.split(" ", 2)[1] != "200":
        raise HttpError(f"{head.splitlines()[0]}: {(await reader.read(500)).decode()}")
    while True:
        if not is_chunked:
            piece = await reader.read(2**16)
        elif size := int(await reader.readuntil(b"\r\n"), 16):
            piece = (await reader.readexactly(size + 2))[:-2]
        else:
            return
        if not piece:
            return
        yield piece


async def get_json(port: int, path: str, headers: Mapping[str, str]) -> Any:
    """Return what a GET answers. Raises OSError, HttpError or ValueError where it does not."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request("GET", path, headers))
        pieces = [piece async for piece in _body(reader)]
    finally:
        writer.close()
    return json.loads(b"".join(pieces) or b"null")


def merged_gaps(streams: Sequence[Stream]) -> list[float]:
    """Return every gap of every stream."""
    return [gap for one in streams for gap in one.gaps_s]
