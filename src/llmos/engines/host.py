"""The engine process: ``python -m llmos.engines.host FD``, one per device.

A reader thread takes messages from the socket, a loader thread reads models, and the main loop
interleaves the steps of the models that have work. torch is imported when the first engine that
needs it is loaded. The process ends when its socket closes.

Environment: LLMOS_DEVICE ("auto", "cuda:N" or "cpu", the default), LLMOS_THREADS (default: as
many as there are cores), LLMOS_PARKING_BYTES (default: none, see `parking`), and what engines read:
LLMOS_ITL_TARGET_MS.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator

from llmos.engines import builtin
from llmos.engines.base import DeviceLostError, Engine, find_device
from llmos.engines.loader import (
    AdapterEnded,
    AdapterLoad,
    Inbox,
    Internal,
    LoadEnded,
    Loader,
    Wake,
    adapter_failed,
)
from llmos.engines.native import extension
from llmos.engines.parking import Parking
from llmos.engines.turns import HostedModel, Turns
from llmos.errors import DeadlineExceededError, EngineError, LlmosError
from llmos.kernel.protocol import (
    Cancel,
    FromEngine,
    Load,
    LoadAdapter,
    Output,
    SetThreads,
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


class Host:
    """The main loop: messages in, interleaved steps, messages out.

    Args:
        inbox: what the reader and loader threads deliver; None ends the loop.
        send: delivers messages to the server in order; called once per round.
        load: starts a load in the background, which delivers a LoadEnded or AdapterEnded.
        parking: keeps what models leave that are unloaded.
        set_threads: has what computes in this process do so with as many threads.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        inbox: Inbox,
        send: Callable[[Iterable[FromEngine]], None],
        load: Callable[[Load | AdapterLoad], None],
        parking: Parking,
        clock: Callable[[], float] = time.monotonic,
        set_threads: Callable[[int], None] = lambda threads: None,
    ) -> None:
        self._inbox = inbox
        self._send = send
        self._load = load
        self._parking = parking
        self._clock = clock
        self._set_threads = set_threads
        self._turns = Turns(clock)
        self._models: dict[str, HostedModel] = {}
        self._loading: Counter[str] = Counter()
        self._unwanted: Counter[str] = Counter()  # of those, the oldest so many are to be dropped
        self._leaving: deque[tuple[str, Engine, Iterator[None]]] = deque()
        self._owners: dict[str, str] = {}  # work id -> model key
        self._threads: int | None = None
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
            out += self._go_on_leaving()
            out += self._report()
            if out:
                self._send(out)

    @property
    def _is_busy(self) -> bool:
        return bool(self._owners)

    def _receive(self) -> Iterable[ToEngine | Internal | None]:
        """Yield what has arrived; wait for it only where there is nothing to compute."""
        if not self._leaving and not any(one.engine.has_work for one in self._models.values()):
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
            case SetThreads(threads):
                self._threads = threads
                self._share_cores()
        return []

    def _share_cores(self) -> None:
        """Compute with as many threads as the server said last; loading sets another number."""
        if self._threads is not None:
            self._set_threads(self._threads)

    def _end_load(self, ended: LoadEnded) -> list[FromEngine]:
        key, engine = ended.load.key, ended.engine
        self._share_cores()
        self._loading[key] -= 1
        if not self._unwanted[key]:
            if engine is not None:
                engine.set_waker(lambda: self._inbox.put(Wake()))
                self._models[key] = HostedModel(engine)
            return [ended.report]
        self._unwanted[key] -= 1
        if engine is not None:
            return [ended.report, *self._leave(key, engine)]
        return [ended.report, *([] if self._unwanted[key] else [Unloaded(key)])]

    def _load_adapter(self, message: LoadAdapter) -> list[FromEngine]:
        if model := self._models.get(message.key):
            self._load(AdapterLoad(message, model.engine))
            return []
        return [adapter_failed(message, EngineError("The model is not loaded."))]

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
            return [*out, *self._leave(key, model.engine)]
        return [*out, Unloaded(key)]

    def _leave(self, key: str, engine: Engine) -> list[FromEngine]:
        """Unload a model, but for its cached prefixes: a part of them is copied after each step of
        the others, which so go on meanwhile."""
        self._leaving.append((key, engine, self._parking.keep(key, engine)))
        return self._go_on_leaving() if len(self._leaving) == 1 else []

    def _go_on_leaving(self) -> list[FromEngine]:
        """Copy the next part of what the first model that leaves is to keep; it is unloaded after
        the last. Models leave one by one, as each makes room for what it is to keep."""
        if not self._leaving:
            return []
        key, engine, parts = self._leaving[0]
        try:
            next(parts)
            return []
        except StopIteration:
            pass
        except (
            Exception
        ):  # the top loop's boundary: the model leaves all the same, with nothing kept
            traceback.print_exc()
        self._leaving.popleft()
        engine.unload()
        is_gone = not self._unwanted[key] and all(key != other for other, *_ in self._leaving)
        return [Unloaded(key)] if is_gone else []

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
            elif not isinstance(result, TokensOut):
                out.append(Output(work_id, result))
            elif (report := model.report(work_id, result, self._clock())) is not None:
                out.append(Output(work_id, report))
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
        models = {key: model.stats() for key, model in self._models.items()}
        stats = Stats(models, self._turns.take_computed())
        if stats == self._reported and not self._is_busy:
            return []
        self._reported_at, self._reported = now, stats
        return [stats]


def _failed(work_id: str, error: LlmosError) -> WorkFailed:
    return WorkFailed(work_id, error.code, error.message)


def set_threads(threads: int) -> None:
    """Have torch and the extension, where they are in use, compute with so many threads. To be
    called from the thread that computes, as torch keeps the number by thread."""
    set_num_threads = getattr(sys.modules.get("torch"), "set_num_threads", None)
    if set_num_threads is not None:  # as it is while the loader is still importing torch
        set_num_threads(threads)
    extension.set_threads(threads)


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
    parking = Parking(int(os.environ.get("LLMOS_PARKING_BYTES", "0")))
    loader = Loader(inbox, load_plugins([builtin]).engines(), device, threads, parking)
    # Ending here and now is right even in the middle of a step: there is nothing to save.
    reader = (channel, inbox, lambda: os._exit(0))
    threading.Thread(target=read_messages, args=reader, name="reader", daemon=True).start()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Host(inbox, channel.send_all, loader.start, parking, set_threads=set_threads).run()


if __name__ == "__main__":
    main(sys.argv[1:])
