"""The engine process: ``python -m llmos.engines.host FD``, one per device.

A reader thread takes messages from the socket, a loader thread reads models, and the main loop
interleaves the steps of the models that have work. torch is imported when the first engine that
needs it is loaded. The process ends when its socket closes.

Environment: LLMOS_DEVICE ("auto", "cuda:N" or "cpu", the default), LLMOS_THREADS (default: as
many as there are cores), and what engines read: LLMOS_ITL_TARGET_MS.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
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
from llmos.engines.base import DeviceLostError, Engine, find_device, with_smaller_cache
from llmos.engines.turns import HostedModel, Turns
from llmos.errors import DeadlineExceededError, EngineError, InvalidModelError, LlmosError
from llmos.kernel.protocol import (
    AdapterFailed,
    AdapterLoaded,
    AdapterMessage,
    Cancel,
    FromEngine,
    Load,
    LoadAdapter,
    Loaded,
    LoadFailed,
    Output,
    Stats,
    Submit,
    SyncChannel,
    ToEngine,
    Unload,
    UnloadAdapter,
    Unloaded,
    WorkFailed,
)
from llmos.plugins.manager import load_plugins
from llmos.types import TokensOut

STATS_S = 1.0
"""Seconds between reports while there is work; they are also the sign that the engine lives."""


@dataclass(frozen=True, slots=True)
class LoadEnded:
    """From the loader thread: what became of a Load; exactly one of the two is set."""

    load: Load
    engine: Engine | None
    report: Loaded | LoadFailed


@dataclass(frozen=True, slots=True)
class AdapterLoad:
    """To the loader thread: an adapter, and the model it is for, which goes on meanwhile."""

    message: LoadAdapter
    engine: Engine


@dataclass(frozen=True, slots=True)
class AdapterEnded:
    """From the loader thread: what became of it."""

    load: AdapterLoad
    report: AdapterMessage


@dataclass(frozen=True, slots=True)
class Wake:
    """From any thread of an engine: it has work for a step again."""


Internal = LoadEnded | AdapterEnded | Wake
Inbox = queue.SimpleQueue[ToEngine | Internal | None]


class Host:
    """The main loop: messages in, interleaved steps, messages out.

    Args:
        inbox: what the reader and loader threads deliver; None ends the loop.
        send: delivers messages to the server in order; called once per round.
        load: starts a load in the background, which delivers a LoadEnded or AdapterEnded.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        inbox: Inbox,
        send: Callable[[Iterable[FromEngine]], None],
        load: Callable[[Load | AdapterLoad], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inbox = inbox
        self._send = send
        self._load = load
        self._clock = clock
        self._turns = Turns(clock)
        self._models: dict[str, HostedModel] = {}
        self._loading: Counter[str] = Counter()
        self._unwanted: Counter[str] = Counter()  # of those, the oldest so many are to be dropped
        self._owners: dict[str, str] = {}  # work id -> model key
        self._reported_at = -STATS_S
        self._reported: Stats | None = None

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
            out += self._expire()
            if (key := self._turns.next(self._models)) is not None:
                out += self._step(key)
            out += self._report()
            if out:
                self._send(out)

    @property
    def _is_busy(self) -> bool:
        return bool(self._owners)

    def _receive(self) -> Iterable[ToEngine | Internal | None]:
        """Yield what has arrived; wait for it only where there is nothing to compute."""
        if not any(model.engine.has_work for model in self._models.values()):
            with contextlib.suppress(queue.Empty):
                yield self._inbox.get(timeout=self._patience_s())
        while not self._inbox.empty():
            yield self._inbox.get()

    def _patience_s(self) -> float | None:
        """Return when to look up from waiting: a deadline may pass, or stats be due, while works
        wait for something else than a step."""
        if not self._is_busy:
            return None
        deadline = min((one.next_deadline for one in self._models.values()), default=math.inf)
        return max(0.0, min(STATS_S, deadline - self._clock()))

    def _handle(self, message: ToEngine | Internal) -> list[FromEngine]:
        match message:
            case Load():
                self._loading[message.key] += 1
                self._load(message)
            case LoadEnded():
                return self._end_load(message)
            case LoadAdapter():
                return self._load_adapter(message)
            case AdapterEnded(load, report):
                model = self._models.get(report.key)  # maybe another by now, which has none
                return [report] if model and model.engine is load.engine else []
            case UnloadAdapter(key, adapter):
                if model := self._models.get(key):
                    model.engine.drop_adapter(adapter)
            case Submit():
                return self._submit(message)
            case Cancel():
                self._cancel(message.id)
            case Unload():
                return self._unload(message.key)
        return []

    def _end_load(self, ended: LoadEnded) -> list[FromEngine]:
        key, engine = ended.load.key, ended.engine
        self._loading[key] -= 1
        if not self._unwanted[key]:
            if engine is not None:
                engine.set_waker(lambda: self._inbox.put(Wake()))
                self._models[key] = HostedModel(engine)
            return [ended.report]
        self._unwanted[key] -= 1
        if engine is not None:
            engine.unload()
        return [ended.report, *([] if self._unwanted[key] else [Unloaded(key)])]

    def _load_adapter(self, message: LoadAdapter) -> list[FromEngine]:
        if model := self._models.get(message.key):
            self._load(AdapterLoad(message, model.engine))
            return []
        return [_adapter_failed(message, EngineError("The model is not loaded."))]

    def _submit(self, message: Submit) -> list[FromEngine]:
        model = self._models.get(message.key)
        try:
            if model is None:
                raise EngineError("The model is not loaded.")
            model.engine.submit(message.id, message.work)
        except LlmosError as error:
            return [_failed(message.id, error)]
        model.add(message.id, message.work, self._clock())
        self._owners[message.id] = message.key
        return []

    def _cancel(self, work_id: str) -> None:
        """Drop a work; one that is unknown has ended."""
        if model := self._models.get(self._owners.pop(work_id, "")):
            model.engine.cancel(work_id)
            model.remove(work_id)

    def _unload(self, key: str) -> list[FromEngine]:
        """Drop a model; one that is still being loaded is dropped as soon as it is there."""
        if self._loading[key]:
            self._unwanted[key] = self._loading[key]
            return []
        out = self._fail_all(key, EngineError("The model was unloaded."))
        if model := self._models.pop(key, None):
            model.engine.unload()
        return [*out, Unloaded(key)]

    def _expire(self) -> list[FromEngine]:
        """Give up the works whose deadline has passed."""
        now = self._clock()
        late = [work_id for model in self._models.values() for work_id in model.expired(now)]
        for work_id in late:
            self._cancel(work_id)
        return [_failed(work_id, DeadlineExceededError()) for work_id in late]

    def _step(self, key: str) -> list[FromEngine]:
        model = self._models[key]
        try:
            results = self._turns.step(key, model)
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
                model.remove(work_id)
        return out

    def _fail_all(self, key: str, error: LlmosError) -> list[FromEngine]:
        """Fail every work of a model; after an unexpected error nobody knows whose fault it was."""
        ids = [work_id for work_id, owner in self._owners.items() if owner == key]
        for work_id in ids:
            self._cancel(work_id)
        return [_failed(work_id, error) for work_id in ids]

    def _report(self) -> list[FromEngine]:
        """Return the models' stats when they are due: now and then, and when the work is done."""
        now = self._clock()
        is_due = now - self._reported_at >= STATS_S
        if not self._models or (not is_due and self._is_busy):
            return []
        stats = Stats({key: model.stats() for key, model in self._models.items()})
        if stats == self._reported and not self._is_busy:
            return []
        self._reported_at, self._reported = now, stats
        return [stats]


def _failed(work_id: str, error: LlmosError) -> WorkFailed:
    return WorkFailed(work_id, error.code, error.message)


def _adapter_failed(message: LoadAdapter, error: LlmosError) -> AdapterFailed:
    return AdapterFailed(message.key, message.adapter, error.code, error.message)


class Loader:
    """Loads one model or adapter after another in its own thread; streams of others go on."""

    def __init__(self, inbox: Inbox, engines: Mapping[str, str], device: str, threads: int) -> None:
        self._inbox = inbox
        self._engines = engines
        self._device = device
        self._threads = threads
        self._has_frozen = False
        self._loads: queue.SimpleQueue[Load | AdapterLoad] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="loader", daemon=True).start()

    def start(self, load: Load | AdapterLoad) -> None:
        """Queue a load; its LoadEnded or AdapterEnded will arrive in the inbox."""
        self._loads.put(load)

    def _run(self) -> None:
        while True:
            load = self._loads.get()
            self._inbox.put(self._load(load) if isinstance(load, Load) else self._adapt(load))

    def _load(self, load: Load) -> LoadEnded:
        begun = time.monotonic()
        try:
            engine = self._make(load.engine)
            manifest = with_smaller_cache(load.manifest, load.short_bytes, self._device)
            size = engine.load(Path(load.path), manifest, self._device, self._threads)
        except LlmosError as error:
            return LoadEnded(load, None, LoadFailed(load.key, error.code, error.message))
        except Exception as error:  # the top loop's boundary: one bad model fails alone
            traceback.print_exc()
            message = f"The model cannot be loaded: {error}"
            return LoadEnded(load, None, LoadFailed(load.key, EngineError.code, message))
        return LoadEnded(load, engine, Loaded(load.key, size, time.monotonic() - begun))

    def _adapt(self, load: AdapterLoad) -> AdapterEnded:
        begun, message = time.monotonic(), load.message
        try:
            size = load.engine.load_adapter(message.adapter, Path(message.path))
        except LlmosError as error:
            return AdapterEnded(load, _adapter_failed(message, error))
        except Exception as error:  # the top loop's boundary: one bad adapter fails alone
            traceback.print_exc()
            refusal = EngineError(f"The adapter cannot be loaded: {error}")
            return AdapterEnded(load, _adapter_failed(message, refusal))
        load_s = time.monotonic() - begun
        return AdapterEnded(load, AdapterLoaded(message.key, message.adapter, size, load_s))

    def _make(self, name: str) -> Engine:
        if name not in self._engines:
            known = ", ".join(sorted(self._engines))
            raise InvalidModelError(f"There is no engine {name!r}; there are: {known}.")
        module, _, attribute = self._engines[name].partition(":")
        engine = cast(Engine, getattr(importlib.import_module(module), attribute)())
        self._freeze_imports()
        return engine

    def _freeze_imports(self) -> None:
        """Keep torch and what comes with it, before there is any model, out of the collector's way:
        with their 350,000 objects the collection at each unload takes 300 ms, without them 3."""
        if not self._has_frozen and "torch" in sys.modules:
            self._has_frozen = True
            gc.freeze()


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
