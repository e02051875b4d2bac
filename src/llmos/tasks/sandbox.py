"""A helper process for what a stranger wrote: killed when it takes too long, limited in memory.

`Sandbox` is the server's side, `serve` the helper's. The helper answers one question at a time over
an inherited socket, has no secrets in its environment, and ends when the socket closes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec

from llmos.errors import OverloadedError
from llmos.kernel.protocol import MAX_MESSAGE_BYTES, SyncChannel, encode

START_TIMEOUT_S = 30.0


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The helper's first message."""


class SandboxTimeoutError(Exception):
    """The helper took too long and was killed."""


class SandboxBrokenError(Exception):
    """The helper ended by itself."""


class Sandbox:
    """Asks a helper process. It starts at the first question (or at ``start``), and again after it
    had to be killed.

    Args:
        module: what the helper runs: ``python -m module FD``, which calls `serve`.
        answers: union of the message types it answers with.
    """

    def __init__(self, module: str, answers: Any) -> None:
        self._module = module
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(answers | Ready)
        self._lock = asyncio.Lock()
        self._helper: _Helper | None = None

    @property
    def pid(self) -> int | None:
        """The helper's process, None while there is none."""
        return self._helper.process.pid if self._helper else None

    async def start(self) -> None:
        """Start the helper now, so that the first question does not wait for it."""
        async with self._lock:
            await self._running()

    async def close(self) -> None:
        """End the helper."""
        async with self._lock:
            await self._kill()

    async def ask(
        self, question: msgspec.Struct, timeout_s: float, wait_s: float | None = None
    ) -> Any:
        """Return the helper's answer.

        Args:
            timeout_s: for this question.
            wait_s: how long those before it may take; None for as long as it takes.

        Raises:
            SandboxTimeoutError, SandboxBrokenError: there is no answer.
            OverloadedError: those before it took too long.
        """
        try:
            await asyncio.wait_for(self._lock.acquire(), wait_s)
        except TimeoutError:
            raise OverloadedError(
                "Too many requests are being checked: try again shortly."
            ) from None
        try:
            helper = await self._running()
            return await asyncio.wait_for(helper.ask(question), timeout_s)
        except TimeoutError:
            await self._kill()
            raise SandboxTimeoutError from None
        except (ConnectionError, asyncio.IncompleteReadError):
            await self._kill()
            raise SandboxBrokenError from None
        except BaseException:
            await self._kill()  # an answer nobody waits for would be taken for the next one
            raise
        finally:
            self._lock.release()

    async def _running(self) -> _Helper:
        if self._helper is None:
            helper = await _Helper.spawn(self._module, self._decoder)
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
        decoder: msgspec.msgpack.Decoder[Any],
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    @classmethod
    async def spawn(cls, module: str, decoder: msgspec.msgpack.Decoder[Any]) -> _Helper:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing in the current folder is imported
                "-m",
                module,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                env=_harmless_environment(),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer, decoder)

    async def ask(self, question: msgspec.Struct) -> Any:
        self._writer.write(encode(question))
        await self._writer.drain()
        return await self.receive()

    async def receive(self) -> Any:
        (length,) = struct.unpack(">I", await self._reader.readexactly(4))
        if length > MAX_MESSAGE_BYTES:
            raise ConnectionError("the helper sent too long a message")
        return self._decoder.decode(await self._reader.readexactly(length))

    async def kill(self) -> None:
        self._writer.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


def _harmless_environment() -> dict[str, str]:
    kept = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ")
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.startswith("PYTHON")
    }


def serve(
    fd: int,
    questions: Any,
    answer: Callable[[Any], msgspec.Struct],
    memory_bytes: int,
    stack_bytes: int = 0,
) -> None:
    """In the helper: answer the questions that come on the socket ``fd`` until it closes.

    Args:
        questions: union of the message types that are asked.
        memory_bytes: address space the helper may take, where the system has such a limit.
        stack_bytes: stack that an answer may take; 0: as much as a thread usually has.
    """
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    channel = SyncChannel.from_fd(fd, questions)

    def answer_all() -> None:
        channel.send(Ready())
        while (question := channel.receive()) is not None:
            channel.send(answer(question))

    threading.stack_size(stack_bytes)
    thread = threading.Thread(target=answer_all)
    thread.start()
    thread.join()
