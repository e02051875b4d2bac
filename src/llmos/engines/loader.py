"""Loads models and adapters in a thread of its own, while the streams of the others go on."""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from llmos.engines.base import Engine, with_smaller_cache
from llmos.engines.parking import Parking
from llmos.errors import EngineError, InvalidModelError, LlmosError
from llmos.kernel import imports
from llmos.kernel.protocol import (
    AdapterFailed,
    AdapterLoaded,
    AdapterMessage,
    Load,
    LoadAdapter,
    Loaded,
    LoadFailed,
    ToEngine,
)


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


class Loader:
    """Loads one model or adapter after another in its own thread; streams of others go on."""

    def __init__(
        self,
        inbox: Inbox,
        engines: Mapping[str, str],
        device: str,
        threads: int,
        parking: Parking,
    ) -> None:
        self._inbox = inbox
        self._parking = parking
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
            if parked := self._parking.take(load.key):
                engine.unpark(parked)
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
            return AdapterEnded(load, adapter_failed(message, error))
        except Exception as error:  # the top loop's boundary: one bad adapter fails alone
            traceback.print_exc()
            refusal = EngineError(f"The adapter cannot be loaded: {error}")
            return AdapterEnded(load, adapter_failed(message, refusal))
        load_s = time.monotonic() - begun
        return AdapterEnded(load, AdapterLoaded(message.key, message.adapter, size, load_s))

    def _make(self, name: str) -> Engine:
        if name not in self._engines:
            known = ", ".join(sorted(self._engines))
            raise InvalidModelError(f"There is no engine {name!r}; there are: {known}.")
        engine = cast(Engine, imports.load(self._engines[name])())
        self._freeze_imports()
        return engine

    def _freeze_imports(self) -> None:
        """Keep torch and what comes with it, before there is any model, out of the collector's way:
        with their 350,000 objects the collection at each unload takes 300 ms, without them 3."""
        if not self._has_frozen and "torch" in sys.modules:
            self._has_frozen = True
            gc.freeze()


def adapter_failed(message: LoadAdapter, error: LlmosError) -> AdapterFailed:
    """Return the answer to an adapter that cannot be loaded."""
    return AdapterFailed(message.key, message.adapter, error.code, error.message)
