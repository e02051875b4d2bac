"""A helper process for what a stranger wrote: killed when it takes too long, limited in memory.

`Sandbox` is the server's side, `serve` the helper's. The helper answers one question at a time over
an inherited socket, has no secrets in its environment, and ends when the socket closes. Owners take
turns at it, and what one wrote that took too long is not tried again for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import struct
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import msgspec

from llmos.errors import OverloadedError
from llmos.kernel.protocol import MAX_MESSAGE_BYTES, SyncChannel, encode

START_TIMEOUT_S = 30.0
WAIT_S = 5.0
"""How long a question may wait for those before it."""
TIMEOUT_MEMORY_S = 60.0
"""What took too long is refused at once for so long: a busy machine may have been the cause."""
MAX_TIMEOUTS = 1024


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The helper's first message."""


class SandboxTimeoutError(Exception):
    """The helper took too long and was killed."""


class SandboxBrokenError(Exception):
    """The helper ended by itself."""


class Turns:
    """Whose turn it is: one holder at a time; owners go round, each with its oldest question."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, owner: str, wait_s: float) -> None:
        """Return when it is the owner's turn. Raises TimeoutError: it was not within ``wait_s``."""
        if not self._is_taken:
            self._is_taken = True
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(owner, deque()).append(turn)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.give()  # it came at the last moment, and nobody is left to use it
            raise

    def give(self) -> None:
        """End a turn: the owner that has waited for longest since its last one is next."""
        while self._waiting:
            owner, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[owner] = turns
            if not turn.done():
                turn.set_result(None)
                return
        self._is_taken = False


class Sandbox:
    """Asks a helper process. It starts at the first question (or at ``start``), and again after it
    had to be killed.

    Args:
        module: what the helper runs: ``python -m module FD``, which calls `serve`.
        answers: union of the message types it answers with.
        clock: monotonic seconds.
    """

    def __init__(
        self, module: str, answers: Any, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._module = module
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(answers | Ready)
        self._clock = clock
        self._turns = Turns()
        self._helper: _Helper | None = None
        self._asking: asyncio.Task[Any] | None = None
        self._timed_out: OrderedDict[bytes, float] = OrderedDict()  # key -> until when

    @property
    def pid(self) -> int | None:
        """The helper's process, None while there is none."""
        return self._helper.process.pid if self._helper else None

    async def start(self) -> None:
        """Start the helper now, so that the first question does not wait for it."""
        await self._turns.take("", START_TIMEOUT_S)
        try:
            await self._running()
        finally:
            self._turns.give()

    async def close(self) -> None:
        """End the helper, and the question it is at."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
        await self._kill()

    async def ask(
        self,
        question: msgspec.Struct,
        timeout_s: float,
        *,
        wait_s: float = WAIT_S,
        owner: str = "",
        key: bytes = b"",
    ) -> Any:
        """Return the helper's answer. A question whose asker leaves is answered all the same: to
        kill the helper would cost whoever is next its start.

        Args:
            timeout_s: for this question.
            wait_s: how long those before it may take.
            owner: who asks; while several do, each has a turn after the other.
            key: what to remember if it takes too long; empty: nothing.

        Raises:
            SandboxTimeoutError: it takes too long, or did a short while ago.
            SandboxBrokenError: the helper ended over it.
            OverloadedError: those before it took too long.
        """
        self._check_not_timed_out(key)
        try:
            await self._turns.take(owner, wait_s)
        except TimeoutError:
            raise OverloadedError(
                "Too many requests are being checked: try again shortly."
            ) from None
        self._asking = asyncio.ensure_future(self._answer(question, timeout_s, key))
        self._asking.add_done_callback(_take_exception)
        return await asyncio.shield(self._asking)

    async def _answer(self, question: msgspec.Struct, timeout_s: float, key: bytes) -> Any:
        """Ask the helper, whose turn this is, and end the turn."""
        try:
            self._check_not_timed_out(key)  # maybe while this waited
            helper = await self._running()
            return await asyncio.wait_for(helper.ask(question), timeout_s)
        except TimeoutError:
            self._remember(key)
            await self._kill()
            raise SandboxTimeoutError from None
        except (ConnectionError, asyncio.IncompleteReadError):
            await self._kill()
            raise SandboxBrokenError from None
        except (SandboxTimeoutError, SandboxBrokenError):
            raise
        except BaseException:
            await self._kill()  # an answer nobody waits for would be taken for the next one
            raise
        finally:
            self._turns.give()

    def _check_not_timed_out(self, key: bytes) -> None:
        if self._clock() < self._timed_out.get(key, -math.inf):
            raise SandboxTimeoutError

    def _remember(self, key: bytes) -> None:
        if key:
            self._timed_out[key] = self._clock() + TIMEOUT_MEMORY_S
            self._timed_out.move_to_end(key)
            while len(self._timed_out) > MAX_TIMEOUTS:
                self._timed_out.popitem(last=False)

    async def _running(self) -> _Helper:
        if self._helper is not None and self._helper.process.returncode is not None:
            await self._kill()  # it ended while nobody asked
        if self._helper is None:
            helper = await _Helper.spawn(self._module, self._decoder)
            try:
                await asyncio.wait_for(helper.receive(), START_TIMEOUT_S)
            except BaseException as error:
                await helper.kill()
                if isinstance(error, TimeoutError):  # not the fault of what is to be asked
                    raise SandboxBrokenError from None
                raise
            self._helper = helper
        return self._helper

    async def _kill(self) -> None:
        helper, self._helper = self._helper, None
        if helper is not None:
            await helper.kill()


def _take_exception(task: asyncio.Task[Any]) -> None:
    """See to it that an error nobody waits for any more is not reported as lost."""
    if not task.cancelled():
        task.exception()


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
