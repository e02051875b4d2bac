"""Child processes: ``python -m module FD`` on one end of a socket pair, the server on the other.

A child ends when its socket closes; `end` sees to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmos.kernel.protocol import MAX_MESSAGE_BYTES, encode

READ_BYTES = 2**15


class AsyncChannel:
    """The server's end of a socket pair. Belongs to one event loop.

    Args:
        receives: union of the message types that arrive here.
    """

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receives: Any
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = msgspec.msgpack.Decoder(receives)
        self._buffer = bytearray()

    @classmethod
    async def open(cls, sock: socket.socket, receives: Any) -> AsyncChannel:
        """Take over a connected socket."""
        reader, writer = await asyncio.open_unix_connection(sock=sock, limit=READ_BYTES)
        return cls(reader, writer, receives)

    def send(self, message: msgspec.Struct) -> None:
        """Queue a message for the child; lost without an error when it has ended.

        Raises:
            UnsendableError: it cannot be encoded; nothing was sent.
        """
        if not self._writer.is_closing():
            self._writer.write(encode(message))

    async def receive(self) -> list[Any]:
        """Return the messages that have arrived, at least one; none once the child has closed.

        Raises:
            ValueError: what came is no message of the protocol.
        """
        while not (messages := self._take_messages()):
            try:
                data = await self._reader.read(READ_BYTES)
            except (ConnectionResetError, BrokenPipeError):
                return []
            if not data:
                return []
            self._buffer += data
        return messages

    def _take_messages(self) -> list[Any]:
        messages, start = [], 0
        while len(self._buffer) - start >= 4:
            (length,) = struct.unpack_from(">I", self._buffer, start)
            if length > MAX_MESSAGE_BYTES:
                raise ValueError(f"message of {length} bytes is over the limit")
            if len(self._buffer) - start - 4 < length:
                break
            messages.append(self._decoder.decode(self._buffer[start + 4 : start + 4 + length]))
            start += 4 + length
        del self._buffer[:start]
        return messages

    async def close(self) -> None:
        """Close the socket, which tells the child to end."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class Child:
    """A running child process; its output goes to a log file."""

    def __init__(self, process: asyncio.subprocess.Process, channel: AsyncChannel) -> None:
        self._process = process
        self._exit = asyncio.create_task(self._reap(), name=f"reap-{process.pid}")
        self.channel = channel

    @classmethod
    async def start(
        cls, module: str, receives: Any, log_path: Path, environ: Mapping[str, str]
    ) -> Child:
        """Start ``python -m module FD``.

        Args:
            receives: union of the message types it sends.
            environ: added to this process's environment.

        Raises:
            OSError: it cannot be started.
        """
        log_path.parent.mkdir(parents=True, exist_ok=True)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with ours, theirs, log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # never import from wherever the server happens to have been started
                "-m",
                module,
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()],
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environ},
                start_new_session=True,  # Ctrl-C in a terminal is the server's to handle
            )
            channel = await AsyncChannel.open(socket.socket(fileno=ours.detach()), receives)
        return cls(process, channel)

    @property
    def pid(self) -> int:
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; no-op when the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def signal_group(self, number: int) -> bool:
        """Send a signal to the process and all it started; False when it has ended."""
        if self._process.returncode is not None:
            return False
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)  # it leads its session, so the group is its own
            return True
        return False

    async def end(self, grace_s: float) -> int:
        """Close the socket, wait ``grace_s`` seconds, then kill; return the exit status."""
        await self.channel.close()
        try:
            return await asyncio.wait_for(asyncio.shield(self._exit), grace_s)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await self._exit

    async def _reap(self) -> int:
        """Wait for the end, then kill what the process left behind, which could hold the socket."""
        status = await self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return status


def describe_exit(status: int) -> str:
    """Return an exit status for people: ``was killed by SIGKILL``, ``ended with status 1``."""
    if status < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"


def thread_environ(threads: int) -> dict[str, str]:
    """Return variables that fix how many threads numeric libraries use, for reproducible sums.

    Threads that wait for each other sleep rather than spin: alone that costs nothing, and beside
    other busy processes a spinning thread burns the very core that the awaited one needs.
    """
    names = ("OMP", "MKL", "OPENBLAS", "NUMEXPR")
    return {f"{name}_NUM_THREADS": str(threads) for name in names} | {
        "OMP_WAIT_POLICY": "PASSIVE",
        "VECLIB_MAXIMUM_THREADS": str(threads),
        "RAYON_NUM_THREADS": str(threads),
    }
