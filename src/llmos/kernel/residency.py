"""Models in the engine's memory: loaded when someone asks, kept while leased, evicted when told to.

Which to load and evict, the scheduler decides; this does it, and carries streams over the death
of the engine process.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from llmos.errors import EngineError, InvalidModelError, LlmosError, OutOfMemoryError, told_error
from llmos.kernel import protocol
from llmos.kernel.adapters import Adapters
from llmos.kernel.engine import EngineLink
from llmos.kernel.leases import Lease as Lease
from llmos.kernel.ledger import Ledger
from llmos.kernel.models import Expectations, LoadTimes, Model, ModelSpec, PastDemands, stopping
from llmos.kernel.state import ResidentModel, WantedModel
from llmos.kernel.telemetry import Meter, Telemetry
from llmos.kernel.works import MAX_DEATHS, LiveWork, Works
from llmos.types import EngineStats, Priority, Work

ENGINE_MODULE = "llmos.engines.host"


class Residency:
    """The models of one engine process and who uses them. Belongs to one event loop.

    Args:
        clock: Unix seconds.
        max_queue: works of one class that may be at one model at a time, see `Queue.admits`.
        stall_s: an engine that has work and says nothing for so long is ended.
        load_wait_s: nobody waits longer for a model.
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
        load_wait_s: float,
        module: str = ENGINE_MODULE,
        environ: Mapping[str, str] | None = None,
        on_change: Callable[[], None] = lambda: None,
        stall_s: float = 120.0,
        monotonic: Callable[[], float] = time.monotonic,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._max_queue = max_queue
        self._on_change = on_change
        self._stall_s, self._load_wait_s = stall_s, load_wait_s
        self._monotonic = monotonic
        self.telemetry = telemetry or Telemetry()
        self._models: dict[str, Model] = {}
        self._load_times, self._past = LoadTimes(), PastDemands()
        self.expectations = Expectations()
        """What models are expected to take; the kernel puts its own here."""
        self.engine = EngineLink(
            module,
            log_path,
            environ or {},
            on_up=self._engine_up,
            on_message=self._engine_said,
            on_down=self._engine_down,
            monotonic=monotonic,
        )
        self._works = Works(
            self.engine.send,
            lambda live: self._is_loaded(live.key) and self._adapters.is_ready(live),
            monotonic,
            lambda key: not self._models[key].gives_leases,
        )
        self._adapters = Adapters(
            ledger, clock, self.engine.send, self._works, self._is_loaded, lambda: self._on_change()
        )
        self._log_path, self._stopped = log_path, False
        self.on_lease: Callable[[Priority, bool], None] = lambda priority, begins: None
        """Called when a request of a class begins, and when it has ended."""
        self.wake_on_release = False
        """Set while a demand waits for memory: then the end of a lease is a change."""

    # -- for requests ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def lease(
        self,
        spec: ModelSpec,
        priority: Priority = Priority.STANDARD,
        deadline_s: float | None = None,
        *,
        tenant: str = "",
        num_works: int = 1,
        ends_early: bool = False,
    ) -> AsyncIterator[Lease]:
        """Hold a model in memory, loading it first if need be.

        Args:
            deadline_s: seconds from now after which waiting, and every work of this lease, fails.
            tenant: whose works they will be; see `Queue.admits`.
            num_works: places that they take in the queue of their class.
            ends_early: let go of everything when ``num_works`` works have ended.

        Raises:
            OverloadedError: too many requests of this class are at this model.
            DeadlineExceededError: it was not there in time.
            ModelLoadingError: it was not there after ``load_wait_s``.
            OutOfMemoryError: it does not fit beside the running jobs.
            LlmosError: it cannot be loaded; everyone who waits for it gets the same error.
        """
        request = self.telemetry.request(spec.name, priority, tenant)
        with request as metered, contextlib.ExitStack() as held:
            model = self._admit(spec, priority, tenant, num_works)
            held.callback(self._let_go, model, priority, tenant, num_works)
            lease = Lease(
                functools.partial(self._start_work, model),
                self._works.drop,
                metered,
                self._monotonic,
                max_works=max(self._max_queue, num_works),
                deadline_at=None if deadline_s is None else self._monotonic() + deadline_s,
                adapter=spec.adapter.key if spec.adapter else "",
                num_works=num_works if ends_early else None,
                on_done=held.close,
            )
            held.callback(lease.close)
            if not model.gives_leases:
                self._note_wanted(model)
                await model.wait(priority, deadline_s, self._load_wait_s)
            async with self._adapters.hold(spec, priority, deadline_s) as let_go:
                held.callback(let_go)
                yield lease

    def _admit(self, spec: ModelSpec, priority: Priority, tenant: str, num_works: int) -> Model:
        """Begin a lease's use of a model. Raises OverloadedError: there is no room for it."""
        if self._stopped:
            raise stopping()
        if (model := self._models.get(spec.key)) is None:
            model = self._models[spec.key] = self._new_model(spec)
        queue = model.queues[priority]
        if not queue.admits(tenant, num_works, self._max_queue):
            raise model.overloaded(priority)
        model.use(self._clock(), num_leases=1)
        queue.begin(tenant, num_works)
        self.on_lease(priority, True)
        return model

    def _let_go(self, model: Model, priority: Priority, tenant: str, num_works: int) -> None:
        """End a lease's use of a model, and its places in the queue."""
        now = self._clock()
        self.on_lease(priority, False)
        model.queues[priority].ended(now, tenant, num_works)
        model.use(now)
        self._forget_if_unused(model)
        if self.wake_on_release:
            self._on_change()

    def model(self, key: str) -> Model | None:
        """Return what is known of a model; None: nobody wants it and it is not in memory."""
        return self._models.get(key)

    def status(self) -> list[dict[str, Any]]:
        """Return what people want to know of each model, see `Model.status`."""
        return [
            model.status() | {"adapters": self._adapters.status(key)}
            for key, model in self._models.items()
        ]

    def pin(self, specs: Mapping[str, ModelSpec]) -> None:
        """Keep these models, by key, and only these in memory, whoever wants others."""
        for key, spec in specs.items():
            self._models.setdefault(key, self._new_model(spec))
        for key, model in list(self._models.items()):
            model.is_pinned = key in specs
            self._forget_if_unused(model)
        self._on_change()

    # -- for the scheduler -----------------------------------------------------------------------

    def resident(self) -> tuple[ResidentModel, ...]:
        """Return the models, and adapters, that hold memory."""
        now, times = self._clock(), self._load_times
        found = (model.resident(now, times.reload_s(model)) for model in self._models.values())
        return (*(model for model in found if model), *self._adapters.resident())

    def wanted(self) -> tuple[WantedModel, ...]:
        """Return the models, and adapters, that are waited for, or pinned, and not in memory."""
        wanted = [*self._adapters.wanted()]
        for model in self._models.values():
            priorities = [*model.waiters.values()]
            priorities += (live.work.priority for live in self._works.of(model.spec.key))
            if model.state == "absent" and (priorities or model.is_pinned):
                wanted.append(model.wanted(min(priorities, default=Priority.BACKGROUND)))
        return tuple(wanted)

    def load(self, key: str, num_bytes: int) -> None:
        """Load a model, if still wanted, into so many bytes. Raises OutOfMemoryError: no room."""
        if model := self._model_in("absent", key):
            self._ledger.reserve(model.ledger_key, num_bytes)
            model.num_bytes = num_bytes
            self._start_load(model)
        self._adapters.load(key)

    def drain(self, key: str) -> None:
        """Give no new leases of a model, so that it can be evicted; who asks for one waits."""
        if model := self._model_in("ready", key):
            model.draining_since = self._clock()
            self._works.dispatch()

    def resume(self, key: str) -> None:
        """Give leases of a drained model again."""
        if model := self._model_in("ready", key):
            model.begin_turn(self._clock())

    def evict(self, key: str) -> None:
        """Unload a model, unless someone has come to use it."""
        model = self._model_in("ready", key)
        if model and not any(model.held()):
            self._start_unload(model)
        self._adapters.evict(key)

    def retire(self, key: str) -> None:
        """Let go of a model or an adapter that was removed, the latter as soon as it is unused."""
        self.evict(key)
        self._adapters.retire(key)

    def refuse(self, key: str, error: LlmosError) -> None:
        """Fail everyone who waits for a model."""
        if model := self._model_in("absent", key):
            self._fail_load(model, error)
        self._adapters.refuse(key, error)

    def end_if_stalled(self) -> None:
        """End an engine that has had work for long and has said nothing since: it hangs."""
        if (since := self._works.oldest_sent_at()) is not None:
            self.engine.end_if_silent(since, self._stall_s)

    async def stop(self) -> None:
        """End the engine; everyone who waits, or comes later, gets an EngineError."""
        self._stopped = True
        await self.engine.stop()
        for model in list(self._models.values()):
            self._fail_load(model, stopping())

    # -- users -----------------------------------------------------------------------------------

    def _start_work(
        self, model: Model, work: Work, meter: Meter, deadline_at: float | None
    ) -> LiveWork:
        self._note_wanted(model)
        return self._works.add(model.spec.key, work, meter, deadline_at)

    def _note_wanted(self, model: Model) -> None:
        """Someone is about to wait for a model: note when the oldest came, and have it loaded."""
        has_waiting_works = model.state != "ready" and self._works.of(model.spec.key)
        if not model.waiters and not has_waiting_works:
            model.wanted_since = self._clock()
        if model.state == "absent":
            self._on_change()

    def _new_model(self, spec: ModelSpec) -> Model:
        bare = dataclasses.replace(spec, adapter=None)
        model = Model(bare, self.expectations.model_bytes(bare), wanted_since=self._clock())
        return self._past.restored(model)

    def _forget_if_unused(self, model: Model) -> None:
        if model.state == "absent" and model.num_users == 0 and not model.is_pinned:
            self._past.keep(self._models.pop(model.spec.key, model))

    # -- models ----------------------------------------------------------------------------------

    def _is_loaded(self, key: str) -> bool:
        return self.engine.is_up and self._model_in("ready", key) is not None

    def _start_load(self, model: Model) -> None:
        model.state = "loading"
        self._models[model.spec.key] = self._models.pop(model.spec.key)  # the newest load goes last
        if self.engine.is_up:
            self._send_load(model)
        else:
            self.engine.need()

    def _send_load(self, model: Model) -> None:
        spec = model.spec
        try:
            self.engine.send(
                protocol.Load(spec.key, spec.engine, spec.path, spec.manifest, model.short_bytes)
            )
        except protocol.UnsendableError as error:
            text = f"The manifest of {spec.name} cannot be sent to the engine: {error}."
            self._fail_load(model, InvalidModelError(text))

    def _start_unload(self, model: Model) -> None:
        model.state, model.draining_since = "unloading", None
        self.engine.send(protocol.Unload(model.spec.key))

    def _loaded(self, model: Model, message: protocol.Loaded) -> None:
        model.measured(message.weights_bytes)
        self._load_times.note(message.key, message.weights_bytes, message.load_s)
        model.load_s, model.load_deaths, model.stats = message.load_s, 0, EngineStats()
        self.expectations.model_loaded(model)
        try:
            self._ledger.correct(model.ledger_key, model.num_bytes)
        except OutOfMemoryError:  # it is larger than it seemed: ask the scheduler for that much
            self._start_unload(model)
            return
        model.state = "ready"
        model.use(self._clock())
        model.begin_turn(self._clock())
        self._adapters.model_ready(model.spec.key)
        self._works.dispatch()
        self._on_change()

    def _unloaded(self, model: Model) -> None:
        self._adapters.model_gone(model.spec.key)
        self._ledger.release(model.ledger_key)
        model.state = "absent"
        self._forget_if_unused(model)
        self._on_change()

    def _fail_load(self, model: Model, error: LlmosError) -> None:
        """Give up on a model: everyone who waits for it gets ``error``."""
        self._ledger.release(model.ledger_key)
        model.state, model.load_deaths, model.is_pinned = "absent", 0, False
        self._adapters.model_gone(model.spec.key, error)
        model.resolve_waiters(error)
        for live in self._works.of(model.spec.key):
            self._works.fail(live.id, error)
        self._forget_if_unused(model)
        self._on_change()

    # -- the engine ------------------------------------------------------------------------------

    def _engine_up(self) -> None:
        self.telemetry.engine_starts += 1
        self._load_times = LoadTimes()
        for model in list(self._models.values()):
            if model.state == "loading":
                self._send_load(model)

    def _engine_said(self, message: protocol.FromEngine) -> None:
        match message:
            case protocol.Output(work_id, out):
                self._works.take_output(work_id, out)
            case protocol.WorkFailed(work_id, code, text):
                self._works.fail(work_id, told_error(code, text))
            case protocol.Stats():
                self._take_stats(message)
            case protocol.Loaded(key):
                if model := self._model_in("loading", key):
                    self._loaded(model, message)
            case protocol.LoadFailed(key, code, text):
                if model := self._model_in("loading", key):
                    self._fail_load(model, told_error(code, text))
            case protocol.AdapterLoaded() | protocol.AdapterFailed():
                self._adapters.take(message)
                self._works.dispatch()
            case protocol.Unloaded(key):
                if model := self._model_in("unloading", key):
                    self._unloaded(model)

    def _take_stats(self, message: protocol.Stats) -> None:
        for key, stats in message.models.items():
            if model := self._model_in("ready", key):
                computed_s = message.compute_s.get(key, {})
                self.telemetry.took(model.spec.name, model.stats, stats, computed_s)
                model.stats = stats

    def _model_in(self, state: str, key: str) -> Model | None:
        """Return the model if it is in that state; what an engine says out of turn is ignored."""
        model = self._models.get(key)
        return model if model and model.state == state else None

    def _engine_down(self, reason: str) -> None:
        """Load again what is in use, as its memory is still reserved; let the rest go."""
        self.telemetry.engine_deaths += 1
        self._adapters.engine_down(reason)
        for first in [one for one in self._models.values() if one.state == "loading"][:1]:
            first.load_deaths += 1
        for model in list(self._models.values()):
            if model.load_deaths >= MAX_DEATHS:
                text = f"The engine {reason} while it loaded {model.spec.name}"
                self._fail_load(model, EngineError(f"{text}: see {self._log_path}."))
            elif model.state in ("loading", "ready") and model.num_users:
                self._start_load(model)
            elif model.state != "absent":
                self._unloaded(model)
        self._works.engine_died(reason)
