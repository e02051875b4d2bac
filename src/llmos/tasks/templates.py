"""Chat templates, rendered in a helper process that is killed when one takes too long.

`Templates` is the server's side. ``python -m llmos.tasks.templates FD`` is the helper: it reads
requests from the socket FD, one at a time, and ends when the socket closes. A template is untrusted
code: the helper has no secrets in its environment, little memory, and a sandboxed Jinja.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from llmos.errors import InvalidRequestError, UnsupportedTaskError
from llmos.kernel.protocol import MAX_MESSAGE_BYTES, SyncChannel, encode
from llmos.types import Message

RENDER_TIMEOUT_S = 1.0
START_TIMEOUT_S = 30.0
MAX_OUTPUT_CHARS = 4 * 2**20
HELPER_MEMORY_BYTES = 2**30


class Render(msgspec.Struct, frozen=True, tag="render"):
    template: str
    variables: dict[str, Any]


class Rendered(msgspec.Struct, frozen=True, tag="rendered"):
    text: str


class RenderFailed(msgspec.Struct, frozen=True, tag="render_failed"):
    message: str


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    pass


FromHelper = Rendered | RenderFailed | Ready


class Templates:
    """Renders templates, one at a time, in the helper process.

    The helper starts at the first render (or at ``start``) and again after it had to be killed.
    """

    def __init__(self, timeout_s: float = RENDER_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._lock = asyncio.Lock()
        self._helper: _Helper | None = None

    async def start(self) -> None:
        """Start the helper now, so that the first chat does not wait for it."""
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        """End the helper."""
        async with self._lock:
            await self._kill()

    async def render(
        self,
        template: str | None,
        messages: Sequence[Message],
        special_tokens: Mapping[str, str | None],
        *,
        add_generation_prompt: bool = True,
    ) -> str:
        """Return the prompt text of a conversation.

        Args:
            template: the model's Jinja text, None where it has none.
            special_tokens: as the template knows them: bos_token, eos_token, …

        Raises:
            UnsupportedTaskError: the model has no template.
            InvalidRequestError: the template refused the messages, failed, ran too long or wrote
                too much; the message says which.
        """
        if template is None:
            raise UnsupportedTaskError(
                "This model has no chat template: use completions (/v1/completions, "
                "Model.generate) instead of chat.",
                param="model",
            )
        variables = {
            "messages": [{"role": turn.role, "content": turn.content} for turn in messages],
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
            **{name: token for name, token in special_tokens.items() if token is not None},
        }
        async with self._lock:
            return await self._render(Render(template, variables))

    async def _render(self, request: Render) -> str:
        helper = await self._running()
        try:
            answer = await asyncio.wait_for(helper.ask(request), self._timeout_s)
        except TimeoutError:
            await self._kill()
            raise InvalidRequestError(
                f"The model's chat template did not finish within {self._timeout_s:g} s.",
                param="messages",
            ) from None
        except (ConnectionError, asyncio.IncompleteReadError):
            await self._kill()
            raise InvalidRequestError(
                "The model's chat template broke the process that rendered it.", param="messages"
            ) from None
        except BaseException:
            await self._kill()  # an answer nobody waits for would be taken for the next one
            raise
        if isinstance(answer, Rendered):
            return answer.text
        reason = answer.message if isinstance(answer, RenderFailed) else "no answer"
        raise InvalidRequestError(f"The model's chat template: {reason}", param="messages")

    async def _running(self) -> _Helper:
        if self._helper is None:
            helper = await _Helper.spawn()
            try:
                await asyncio.wait_for(helper.receive(), START_TIMEOUT_S)
            except BaseException:
                await helper.kill()
                raise
            self._helper = helper
        return self._helper

    async def _kill(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            await helper.kill()


class _Helper:
    """The helper process and the server's end of its socket."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(FromHelper)

    @classmethod
    async def spawn(cls) -> _Helper:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing in the current folder is imported
                "-m",
                "llmos.tasks.templates",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=_harmless_environment(),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    async def ask(self, request: Render) -> FromHelper:
        self._writer.write(encode(request))
        await self._writer.drain()
        return await self.receive()

    async def receive(self) -> FromHelper:
        (length,) = struct.unpack(">I", await self._reader.readexactly(4))
        if length > MAX_MESSAGE_BYTES:
            raise ConnectionError("the helper sent too long a message")
        answer: FromHelper = self._decoder.decode(await self._reader.readexactly(length))
        return answer

    async def kill(self) -> None:
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def _harmless_environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.startswith("PYTHON")
    }


def main(fd: int) -> None:
    """Serve renders on the socket ``fd`` until it closes."""
    from llmos.tasks.template_sandbox import TemplateError, limit_memory, render

    limit_memory(HELPER_MEMORY_BYTES)
    channel = SyncChannel.from_fd(fd, Render)
    channel.send(Ready())
    while (request := channel.receive()) is not None:
        try:
            text = render(request.template, request.variables, MAX_OUTPUT_CHARS)
        except TemplateError as error:
            channel.send(RenderFailed(str(error)))
        else:
            channel.send(Rendered(text))


if __name__ == "__main__":
    main(int(sys.argv[1]))
