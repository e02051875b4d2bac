"""The engine process: ``python -m llmos.engines.host FD``, one per device.

A reader thread takes messages from the socket, a loader thread reads models, and the main loop
interleaves one step of every model that has work. torch is imported when the first engine that
needs it is loaded. The process ends when its socket closes.

Environment: LLMOS_DEVICE ("auto", "cuda:N" or "cpu", the default) and LLMOS_THREADS (default: as
many as there are cores).
"""

from __future__ import annotations

import contextlib
import importlib
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from llmos.engines import builtin
from llmos.engines.base import DeviceLostError, Engine, find_device
from llmos.errors import EngineError, InvalidModelError, LlmosError
from llmos.kernel.protocol import (
    Cancel,
    FromEngine,
    Load,
    Loaded,
    LoadFailed,
    Output,
    Submit,
    SyncChannel,
    ToEngine,
    Unload,
    Unloaded,
    WorkFailed,
)
from llmos.plugins.manager import load_plugins
from llmos.types import TokensOut


@dataclass(frozen=True, slots=True)
class LoadEnded:
    """From the loader thread: what became of a Load; exactly one of the two is set."""

    load: Load
    engine: Engine | None
    report: Loaded | LoadFailed


Inbox = queue.SimpleQueue[ToEngine | LoadEnded | None]


class Host:
    """The main loop: messages in, interleaved steps, messages out.

    Args:
        inbox: what the reader and loader threads deliver; None ends the loop.
        send: delivers messages to the server in order; called once per round.
        load: starts a load in the background, which delivers a LoadEnded.
    """

    def __init__(
        self,
        inbox: Inbox,
        send: Callable[[Iterable[FromEngine]], None],
        load: Callable[[Load], None],
    ) -> None:
        self._inbox = inbox
        self._send = send
        self._load = load
        self._engines: dict[str, Engine] = {}
        self._loading: Counter[str] = Counter()
        self._unwanted: Counter[str] = Counter()  # of those, the oldest so many are to be dropped
        self._owners: dict[str, str] = {}  # work id -> model key

    def run(self) -> None:
        """Serve until the server closes the socket.

        Raises:
            DeviceLostError: the process must end, so that the server starts another.
        """
        while True:
            out: list[FromEngine] = []
            for message in self._receive():
                if message is None:
                    return
                out += self._handle(message)
            for key, engine in list(self._engines.items()):
                if engine.has_work:
                    out += self._step(key, engine)
            if out:
                self._send(out)

    def _receive(self) -> Iterable[ToEngine | LoadEnded | None]:
        """Yield what has arrived; wait for it only where there is nothing to compute."""
        is_busy = any(engine.has_work for engine in self._engines.values())
        if not is_busy:
            yield self._inbox.get()
        while not self._inbox.empty():
            yield self._inbox.get()

    def _handle(self, message: ToEngine | LoadEnded) -> list[FromEngine]:
        match message:
            case Load():
                self._loading[message.key] += 1
                self._load(message)
            case LoadEnded():
                return self._end_load(message)
            case Submit():
                return self._submit(message)
            case Cancel():
                if engine := self._engines.get(self._owners.pop(message.id, "")):
                    engine.cancel(message.id)
            case Unload():
                return self._unload(message.key)
        return []

    def _end_load(self, ended: LoadEnded) -> list[FromEngine]:
        key, engine = ended.load.key, ended.engine
        self._loading[key] -= 1
        if not self._unwanted[key]:
            if engine is not None:
                self._engines[key] = engine
            return [ended.report]
        self._unwanted[key] -= 1
        if engine is not None:
            engine.unload()
        return [ended.report, *([] if self._unwanted[key] else [Unloaded(key)])]

    def _submit(self, message: Submit) -> list[FromEngine]:
        engine = self._engines.get(message.key)
        try:
            if engine is None:
                raise EngineError("The model is not loaded.")
            engine.submit(message.id, message.work)
        except LlmosError as error:
            return [_failed(message.id, error)]
        self._owners[message.id] = message.key
        return []

    def _unload(self, key: str) -> list[FromEngine]:
        """Drop a model; one that is still being loaded is dropped as soon as it is there."""
        if self._loading[key]:
            self._unwanted[key] = self._loading[key]
            return []
        out = self._fail_all(key, EngineError("The model was unloaded."))
        if engine := self._engines.pop(key, None):
            engine.unload()
        return [*out, Unloaded(key)]

    def _step(self, key: str, engine: Engine) -> list[FromEngine]:
        try:
            results = engine.step()
        except DeviceLostError:
            raise
        except Exception as error:  # the top loop's boundary: the other models must go on
            traceback.print_exc()
            return self._fail_all(key, EngineError(f"The engine failed: {error}"))
        out: list[FromEngine] = []
        for work_id, result in results:
            if isinstance(result, LlmosError):
                out.append(_failed(work_id, result))
            else:
                out.append(Output(work_id, result))
            if not (isinstance(result, TokensOut) and result.finish_reason is None):
                self._owners.pop(work_id, None)
        return out

    def _fail_all(self, key: str, error: LlmosError) -> list[FromEngine]:
        """Fail every work of a model; after an unexpected error nobody knows whose fault it was."""
        ids = [work_id for work_id, owner in self._owners.items() if owner == key]
        for work_id in ids:
            del self._owners[work_id]
            if engine := self._engines.get(key):
                engine.cancel(work_id)
        return [_failed(work_id, error) for work_id in ids]


def _failed(work_id: str, error: LlmosError) -> WorkFailed:
    return WorkFailed(work_id, error.code, error.message)


class Loader:
    """Loads one model after another in its own thread, so that streams of others go on."""

    def __init__(self, inbox: Inbox, engines: Mapping[str, str], device: str, threads: int) -> None:
        self._inbox = inbox
        self._engines = engines
        self._device = device
        self._threads = threads
        self._loads: queue.SimpleQueue[Load] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="loader", daemon=True).start()

    def start(self, load: Load) -> None:
        """Queue a load; its LoadEnded will arrive in the inbox."""
        self._loads.put(load)

    def _run(self) -> None:
        while True:
            self._inbox.put(self._load(self._loads.get()))

    def _load(self, load: Load) -> LoadEnded:
        begun = time.monotonic()
        try:
            engine = self._make(load.engine)
            size = engine.load(Path(load.path), load.manifest, self._device, self._threads)
        except LlmosError as error:
            return LoadEnded(load, None, LoadFailed(load.key, error.code, error.message))
        except Exception as error:  # the top loop's boundary: one bad model fails alone
            traceback.print_exc()
            message = f"The model cannot be loaded: {error}"
            return LoadEnded(load, None, LoadFailed(load.key, EngineError.code, message))
        return LoadEnded(load, engine, Loaded(load.key, size, time.monotonic() - begun))

    def _make(self, name: str) -> Engine:
        if name not in self._engines:
            known = ", ".join(sorted(self._engines))
            raise InvalidModelError(f"There is no engine {name!r}; there are: {known}.")
        module, _, attribute = self._engines[name].partition(":")
        return cast(Engine, getattr(importlib.import_module(module), attribute)())


def read_messages(channel: SyncChannel, inbox: Inbox, on_close: Callable[[], None]) -> None:
    """Deliver messages until the server closes the socket, or talks nonsense; then end."""
    try:
        while (message := channel.receive()) is not None:
            inbox.put(message)
    finally:
        inbox.put(None)
        on_close()


def main(argv: list[str]) -> None:
    """Serve on the inherited descriptor ``argv[0]``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the server's business
    device = find_device(os.environ.get("LLMOS_DEVICE", "cpu"))
    threads = int(os.environ.get("LLMOS_THREADS", "0")) or os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Where a job shares the cores, threads that spin at barriers make a step 5 to 20 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # models are local: an engine has nothing to fetch
    channel = SyncChannel.from_fd(int(argv[0]), ToEngine)
    inbox: Inbox = queue.SimpleQueue()
    loader = Loader(inbox, load_plugins([builtin]).engines(), device, threads)
    # Ending here and now is right even in the middle of a step: there is nothing to save.
    reader = (channel, inbox, lambda: os._exit(0))
    threading.Thread(target=read_messages, args=reader, name="reader", daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Host(inbox, channel.send_all, loader.start).run()


if __name__ == "__main__":
    main(sys.argv[1:])
