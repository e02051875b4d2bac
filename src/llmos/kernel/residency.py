"""Models in the engine's memory: loaded when someone asks, kept while leased, evicted when told to.

Which to load and evict, the scheduler decides; this does it, and carries streams over the death
of the engine process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from llmos.errors import (
    EngineError,
    InvalidModelError,
    LlmosError,
    OutOfMemoryError,
    OverloadedError,
    by_code,
)
from llmos.kernel import protocol
from llmos.kernel.engine import EngineLink
from llmos.kernel.ledger import Ledger, format_bytes
from llmos.kernel.models import Model
from llmos.kernel.models import ModelSpec as ModelSpec
from llmos.kernel.scheduler import ResidentModel, WantedModel
from llmos.kernel.works import MAX_DEATHS, LiveWork, Works
from llmos.types import (
    GenerateWork,
    PipelineOut,
    PipelineWork,
    Priority,
    TokensOut,
    Work,
)

ENGINE_MODULE = "llmos.engines.host"


class Lease:
    """A loaded model that stays loaded while this is held; loaded again if the engine dies."""

    def __init__(self, residency: Residency, model: Model) -> None:
        self._residency = residency
        self._model = model
        self._live: set[LiveWork] = set()

    async def generate(self, work: GenerateWork) -> AsyncGenerator[TokensOut, None]:
        """Yield tokens as they are sampled; the last output has a ``finish_reason``.

        Closing the generator, or the lease, cancels the work in the engine. When the engine dies,
        the stream goes on with the same tokens.

        Raises:
            OverloadedError: too many requests are at this model.
            EngineError: the engine died three times running at this request.
            LlmosError: whatever the engine says is wrong with the request.
        """
        live = self._begin(work)
        try:
            while True:
                out = await live.next()
                assert isinstance(out, TokensOut)
                yield out
                if out.finish_reason is not None:
                    return
        finally:
            self._end(live)

    async def run(self, work: PipelineWork) -> PipelineOut:
        """Return the result of one forward task. Raises as `generate`."""
        live = self._begin(work)
        try:
            out = await live.next()
            assert isinstance(out, PipelineOut)
            return out
        finally:
            self._end(live)

    def close(self) -> None:
        """Cancel what is still going on."""
        for live in list(self._live):
            self._end(live)

    def _begin(self, work: Work) -> LiveWork:
        live = self._residency._submit(self._model, work)
        self._live.add(live)
        return live

    def _end(self, live: LiveWork) -> None:
        self._live.discard(live)
        self._residency._works.drop(live)


class Residency:
    """The models of one engine process and who uses them. Belongs to one event loop.

    Args:
        max_queue: requests that may be at one model at a time.
        module: the engine process, run as ``python -m module FD``.
        environ: added to the environment of that process.
        on_change: called when there may be something to load or evict.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float],
        *,
        log_path: Path,
        max_queue: int,
        module: str = ENGINE_MODULE,
        environ: Mapping[str, str] | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._max_queue = max_queue
        self._on_change = on_change
        self._models: dict[str, Model] = {}
        self._link = EngineLink(
            module,
            log_path,
            environ or {},
            on_up=self._engine_up,
            on_message=self._engine_said,
            on_down=self._engine_down,
        )
        self._works = Works(self._link.send, self._is_ready)
        self._log_path = log_path
        self._stopped = False
        self.wake_on_release = False
        """Set while a demand waits for memory: then the end of a lease is a change."""

    # -- for requests ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(
        self, spec: ModelSpec, priority: Priority = Priority.STANDARD
    ) -> AsyncIterator[Lease]:
        """Hold a model in memory, loading it first if need be.

        Raises:
            OverloadedError: too many requests are at this model.
            OutOfMemoryError: it does not fit beside the running jobs.
            LlmosError: it cannot be loaded; everyone who waits for it gets the same error.
        """
        if self._stopped:
            raise _stopping()
        model = self._models.setdefault(spec.key, Model(spec, spec.estimate_bytes))
        if model.num_users >= self._max_queue:
            raise self._overloaded(model)
        model.use(self._clock(), num_leases=1)
        model.num_users += 1
        lease = Lease(self, model)
        try:
            if model.state != "ready":
                await self._wait_until_ready(model, priority)
            yield lease
        finally:
            lease.close()
            model.num_users -= 1
            model.use(self._clock())
            self._forget_if_unused(model)
            if self.wake_on_release:
                self._on_change()

    @property
    def engine_pid(self) -> int | None:
        """Process id of the engine; None while there is none."""
        return self._link.pid

    def status(self) -> list[dict[str, Any]]:
        """Return what people want to know of each model, see `Model.status`."""
        return [model.status() for model in self._models.values()]

    # -- for the scheduler -----------------------------------------------------------------------

    def resident(self) -> tuple[ResidentModel, ...]:
        """Return the models that hold memory."""
        found = (model.resident(self._clock()) for model in self._models.values())
        return tuple(model for model in found if model)

    def wanted(self) -> tuple[WantedModel, ...]:
        """Return the models that someone waits for and that are not in memory."""
        wanted = []
        for model in self._models.values():
            priorities = [*model.waiters.values()]
            priorities += (live.work.priority for live in self._works.of(model.spec.key))
            if model.state == "absent" and priorities:
                wanted.append(
                    WantedModel(
                        model.spec.key, model.num_bytes, min(priorities), model.wanted_since
                    )
                )
        return tuple(wanted)

    def load(self, key: str) -> None:
        """Load a model, if it is still wanted. Raises OutOfMemoryError: the ledger has no room."""
        if model := self._model_in("absent", key):
            self._ledger.reserve(model.ledger_key, model.num_bytes)
            self._start_load(model)

    def evict(self, key: str) -> None:
        """Unload a model, unless someone has come to use it."""
        model = self._model_in("ready", key)
        if model and model.num_users == 0:
            self._start_unload(model)

    def refuse(self, key: str, error: LlmosError) -> None:
        """Fail everyone who waits for a model."""
        if model := self._model_in("absent", key):
            self._fail_load(model, error)

    async def stop(self) -> None:
        """End the engine; everyone who waits, or comes later, gets an EngineError."""
        self._stopped = True
        await self._link.stop()
        for model in list(self._models.values()):
            self._fail_load(model, _stopping())

    # -- users -----------------------------------------------------------------------------------

    def _submit(self, model: Model, work: Work) -> LiveWork:
        if len(self._works.of(model.spec.key)) >= self._max_queue:
            raise self._overloaded(model)
        self._note_wanted(model)
        live = self._works.add(model.spec.key, work)
        if model.state == "absent":
            self._on_change()
        return live

    async def _wait_until_ready(self, model: Model, priority: Priority) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._note_wanted(model)
        model.waiters[ready] = priority
        if model.state == "absent":
            self._on_change()
        try:
            await ready
        finally:
            model.waiters.pop(ready, None)

    def _note_wanted(self, model: Model) -> None:
        """Note when the oldest of those who wait for a model came."""
        if not model.waiters and not self._works.of(model.spec.key):
            model.wanted_since = self._clock()

    def _forget_if_unused(self, model: Model) -> None:
        if model.state == "absent" and model.num_users == 0:
            self._models.pop(model.spec.key, None)

    def _overloaded(self, model: Model) -> OverloadedError:
        return OverloadedError(
            f"{self._max_queue} requests are at {model.spec.name} already: try again shortly."
        )

    # -- models ----------------------------------------------------------------------------------

    def _is_ready(self, key: str) -> bool:
        return self._link.is_up and self._model_in("ready", key) is not None

    def _start_load(self, model: Model) -> None:
        model.state = "loading"
        self._models[model.spec.key] = self._models.pop(model.spec.key)  # the newest load goes last
        if self._link.is_up:
            self._send_load(model)
        else:
            self._link.need()

    def _send_load(self, model: Model) -> None:
        spec = model.spec
        try:
            self._link.send(protocol.Load(spec.key, spec.engine, spec.path, spec.manifest))
        except protocol.UnsendableError as error:
            text = f"The manifest of {spec.name} cannot be sent to the engine: {error}."
            self._fail_load(model, InvalidModelError(text))

    def _start_unload(self, model: Model) -> None:
        model.state = "unloading"
        self._link.send(protocol.Unload(model.spec.key))

    def _loaded(self, model: Model, message: protocol.Loaded) -> None:
        model.num_bytes, model.load_s, model.load_deaths = message.weights_bytes, message.load_s, 0
        try:
            self._ledger.correct(model.ledger_key, model.num_bytes)
        except OutOfMemoryError:  # it is larger than it seemed: ask the scheduler for that much
            self._start_unload(model)
            return
        model.state = "ready"
        model.use(self._clock())
        model.resolve_waiters()
        self._works.dispatch()
        self._on_change()

    def _unloaded(self, model: Model) -> None:
        self._ledger.release(model.ledger_key)
        model.state = "absent"
        self._forget_if_unused(model)
        self._on_change()

    def _fail_load(self, model: Model, error: LlmosError) -> None:
        """Give up on a model: everyone who waits for it gets ``error``."""
        self._ledger.release(model.ledger_key)
        model.state = "absent"
        model.load_deaths = 0
        model.resolve_waiters(error)
        for live in self._works.of(model.spec.key):
            self._works.fail(live.id, error)
        self._forget_if_unused(model)
        self._on_change()

    # -- the engine ------------------------------------------------------------------------------

    def _engine_up(self) -> None:
        for model in list(self._models.values()):
            if model.state == "loading":
                self._send_load(model)

    def _engine_said(self, message: protocol.FromEngine) -> None:
        match message:
            case protocol.Output(work_id, out):
                self._works.take_output(work_id, out)
            case protocol.WorkFailed(work_id, code, text):
                self._works.fail(work_id, by_code(code)(text))
            case protocol.Loaded(key):
                if model := self._model_in("loading", key):
                    self._loaded(model, message)
            case protocol.LoadFailed(key, code, text):
                if model := self._model_in("loading", key):
                    self._fail_load(model, by_code(code)(text))
            case protocol.Unloaded(key):
                if model := self._model_in("unloading", key):
                    self._unloaded(model)

    def _model_in(self, state: str, key: str) -> Model | None:
        """Return the model if it is in that state; what an engine says out of turn is ignored."""
        model = self._models.get(key)
        return model if model and model.state == state else None

    def _engine_down(self, reason: str) -> None:
        """Load again what is in use, as its memory is still reserved; let the rest go."""
        loading = [model for model in self._models.values() if model.state == "loading"]
        if loading:
            loading[0].load_deaths += 1
        for model in list(self._models.values()):
            if model.load_deaths >= MAX_DEATHS:
                text = (
                    f"The engine {reason} while it loaded {model.spec.name}: see {self._log_path}."
                )
                self._fail_load(model, EngineError(text))
            elif model.state in ("loading", "ready") and model.num_users:
                self._start_load(model)
            elif model.state != "absent":
                self._unloaded(model)
        self._works.engine_died(reason)


def _stopping() -> EngineError:
    return EngineError("llmos is stopping: try again later.")


def too_large(model: WantedModel, ledger: Ledger) -> OutOfMemoryError:
    """Return the error for a model that cannot fit beside the running jobs."""
    return OutOfMemoryError(
        f"This model needs about {format_bytes(model.num_bytes)} of memory; llmos may use "
        f"{format_bytes(ledger.capacity_bytes)}, running jobs included: wait for them, cancel one, "
        "or raise memory_bytes."
    )
