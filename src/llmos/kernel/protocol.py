"""What the server says to its engine and worker processes, and they to it.

Messages are msgpack-encoded msgspec structs, each preceded by its length as four big-endian bytes,
over an inherited Unix socket. No pickle. A side whose peer closes the socket ends.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from llmos.types import EngineStats, JobResult, TokensOut, Work, WorkOut

MAX_MESSAGE_BYTES = 256 * 2**20


# -- server -> engine ----------------------------------------------------------------------------


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load the model in directory ``path`` under ``key`` with the named engine."""

    key: str
    engine: str
    path: str
    manifest: dict[str, Any]
    short_bytes: int = 0
    """So much less than its estimate may it take, by a smaller cache."""


class Unload(msgspec.Struct, frozen=True, tag="unload"):
    key: str


class LoadAdapter(msgspec.Struct, frozen=True, tag="load_adapter"):
    """Lay the adapter in directory ``path`` over the loaded model ``key``, as ``adapter``."""

    key: str
    adapter: str
    path: str


class UnloadAdapter(msgspec.Struct, frozen=True, tag="unload_adapter"):
    """Forget an adapter that no work uses. There is no answer: what is sent later comes after."""

    key: str
    adapter: str


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    id: str
    key: str
    work: Work


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    id: str


class SetThreads(msgspec.Struct, frozen=True, tag="set_threads"):
    """Compute with so many threads from the next step on, at most as many as at the start."""

    threads: int


# -- engine -> server ----------------------------------------------------------------------------


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    key: str
    weights_bytes: int
    load_s: float


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    key: str
    code: str
    message: str


class Unloaded(msgspec.Struct, frozen=True, tag="unloaded"):
    key: str


class AdapterLoaded(msgspec.Struct, frozen=True, tag="adapter_loaded"):
    key: str
    adapter: str
    num_bytes: int
    load_s: float


class AdapterFailed(msgspec.Struct, frozen=True, tag="adapter_failed"):
    key: str
    adapter: str
    code: str
    message: str


class Output(msgspec.Struct, frozen=True, tag="output"):
    id: str
    out: WorkOut


def joined(outs: Sequence[TokensOut]) -> TokensOut:
    """Return what consecutive outputs of a work say, as one."""
    if len(outs) == 1:
        return outs[0]
    return TokensOut(
        tuple(piece for out in outs for piece in out.pieces),
        outs[-1].finish_reason,
        tuple(piece for out in outs for piece in out.prompt),
        max(out.num_cached for out in outs),
    )


class WorkFailed(msgspec.Struct, frozen=True, tag="work_failed"):
    id: str
    code: str
    message: str


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """What every loaded model does, by key. Sent about once a second while there is work, between
    steps: an engine that has work and sends nothing hangs."""

    models: dict[str, EngineStats]
    compute_s: dict[str, dict[str, float]] = {}
    """Since the last report: seconds of steps, by model and by the tenants that shared them."""


# -- server -> worker ----------------------------------------------------------------------------


class StartJob(msgspec.Struct, frozen=True, tag="start_job"):
    """Run ``handler`` ("package.module:function") on ``params``.

    Attributes:
        devices: one for each of its processes, where several have memory of their own for it; none:
            those that the environment says.
    """

    job_id: int
    fence: int
    attempt: int
    handler: str
    name: str
    params: dict[str, Any]
    owner: str
    home: str
    checkpoint_dir: str
    threads: int
    heartbeat_s: float
    devices: tuple[str, ...] = ()


class CancelJob(msgspec.Struct, frozen=True, tag="cancel_job"):
    """End: with ``keep`` only this attempt, and what it has done so far is to be kept."""

    keep: bool = False


class PauseJob(msgspec.Struct, frozen=True, tag="pause_job"):
    """Stand still at the next point where that is possible, or go on."""

    paused: bool
    still_s: float = 0.0
    """When it may go on: how long it has stood still."""
    give_memory: bool = False
    """Also move to the host what lies in the device's memory, until it may go on."""


class Answer(msgspec.Struct, frozen=True):
    """What the server answered one of its jobs, as it would have over HTTP."""

    status: int
    body: bytes
    request_id: str = ""
    """Under which the server's log has it."""
    retry_after_s: float | None = None


class JobAnswer(msgspec.Struct, frozen=True, tag="job_answer"):
    """The answer to the `JobAsk` with this id."""

    id: int
    answer: Answer


# -- worker -> server ----------------------------------------------------------------------------


class Heartbeat(msgspec.Struct, frozen=True, tag="heartbeat"):
    pass


class Paused(msgspec.Struct, frozen=True, tag="paused"):
    """The handler stands still, or has gone on."""

    paused: bool
    gave_memory: bool = False
    """Nothing of it is in the device's memory any more."""


class JobProgress(msgspec.Struct, frozen=True, tag="progress"):
    step: int
    total: int
    message: str = ""


class JobLog(msgspec.Struct, frozen=True, tag="log"):
    line: str


class JobMetric(msgspec.Struct, frozen=True, tag="metric"):
    step: int
    values: dict[str, float]


class JobAsk(msgspec.Struct, frozen=True, tag="job_ask"):
    """Ask the server's own ``path`` as the job's owner: POST where there is a body, else GET."""

    id: int
    path: str
    body: bytes | None


class JobDone(msgspec.Struct, frozen=True, tag="job_done"):
    result: JobResult


class JobFailed(msgspec.Struct, frozen=True, tag="job_failed"):
    code: str
    message: str
    retryable: bool


ToEngine = Load | Unload | LoadAdapter | UnloadAdapter | Submit | Cancel | SetThreads
AdapterMessage = AdapterLoaded | AdapterFailed
FromEngine = Loaded | LoadFailed | Unloaded | AdapterMessage | Output | WorkFailed | Stats
ToWorker = StartJob | CancelJob | PauseJob | JobAnswer
Said = Heartbeat | Paused | JobProgress | JobLog | JobMetric | JobDone | JobFailed
FromWorker = Said | JobAsk


class UnsendableError(ValueError):
    """A value that no message can carry; says what in it is in the way."""


def pack(value: Any) -> bytes:
    """Return the bytes of a value.

    Raises:
        UnsendableError: it has a number beyond 64 bits, a lone surrogate or an object of no known
            type, is nested too deeply, or is too large.
    """
    try:
        data = msgspec.msgpack.encode(value)
    except (OverflowError, TypeError, ValueError, RecursionError) as error:
        raise UnsendableError(f"{type(error).__name__}: {error}") from error
    if len(data) > MAX_MESSAGE_BYTES:
        raise UnsendableError(f"{len(data)} bytes are over the limit of {MAX_MESSAGE_BYTES}")
    return data


def encode(message: msgspec.Struct) -> bytes:
    """Return the framed bytes of a message. Raises UnsendableError, see `pack`."""
    body = pack(message)
    return struct.pack(">I", len(body)) + body


class SyncChannel:
    """The child's blocking end of the socket. ``send`` may be called from any thread.

    Args:
        sock: the inherited socket.
        receives: union of the message types that arrive here.
    """

    def __init__(self, sock: socket.socket, receives: Any) -> None:
        self._sock = sock
        self._decoder = msgspec.msgpack.Decoder(receives)
        self._lock = threading.Lock()
        self._buffer = bytearray()

    @classmethod
    def from_fd(cls, fd: int, receives: Any) -> SyncChannel:
        """Wrap an inherited descriptor."""
        return cls(socket.socket(fileno=fd), receives)

    def send(self, message: msgspec.Struct) -> None:
        with self._lock:
            self._sock.sendall(encode(message))

    def send_all(self, messages: Iterable[msgspec.Struct]) -> None:
        """Send messages in order, in one write."""
        with self._lock:
            self._sock.sendall(b"".join(map(encode, messages)))

    def receive(self) -> Any | None:
        """Return the next message, or None when the peer has closed."""
        header = self._read(4)
        if header is None:
            return None
        (length,) = struct.unpack(">I", header)
        if length > MAX_MESSAGE_BYTES:
            raise ValueError(f"message of {length} bytes is over the limit")
        body = self._read(length)
        return None if body is None else self._decoder.decode(body)

    def _read(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            try:
                data = self._sock.recv(max(65536, count - len(self._buffer)))
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
