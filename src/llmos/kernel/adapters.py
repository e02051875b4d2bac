"""Adapters over the models in the engine's memory: loaded for the first who asks, then kept.

To the scheduler an adapter is one more thing that wants memory and holds it, so room is made for it
and it is evicted as a model is. Here is what is special: it needs its model, and goes with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from llmos.errors import (
    EngineError,
    LlmosError,
    OutOfMemoryError,
    told_error,
)
from llmos.kernel.ledger import Ledger
from llmos.kernel.protocol import (
    AdapterFailed,
    AdapterLoaded,
    AdapterMessage,
    LoadAdapter,
    ToEngine,
    UnloadAdapter,
)
from llmos.kernel.state import ResidentModel, WantedModel
from llmos.kernel.works import MAX_DEATHS, LiveWork, Works, wait_until_ready
from llmos.types import GenerateWork, Priority, Work

if TYPE_CHECKING:
    from llmos.kernel.models import ModelSpec

MAX_LOADED = 64
"""Adapters over one model at a time, those in use apart; the one unused for longest goes."""


@dataclass(frozen=True, slots=True)
class AdapterSpec:
    """What the engine needs to load an adapter. ``key`` says which are the same (a digest)."""

    key: str
    path: str
    estimate_bytes: int
    name: str


@dataclass(slots=True, eq=False)
class Adapter:
    """One adapter over one model, used, wanted or in memory. Times are Unix seconds."""

    model_key: str
    spec: AdapterSpec
    num_bytes: int
    """What to reserve: the estimate until it was measured."""
    state: Literal["absent", "loading", "ready"] = "absent"
    is_sent: bool = False
    """While loading: whether the engine was told to."""
    num_users: int = 0
    waiters: dict[asyncio.Future[None], Priority] = field(default_factory=dict)
    wanted_since: float = 0.0
    last_used_at: float = 0.0
    load_s: float = 0.0
    load_deaths: int = 0
    is_retired: bool = False
    """Nobody is expected to ask for it again."""

    @property
    def key(self) -> str:
        """What the scheduler calls it."""
        return f"{self.model_key}+{self.spec.key}"

    @property
    def ledger_key(self) -> str:
        return f"adapter:{self.spec.name}:{self.key}"

    def resolve_waiters(self, error: LlmosError | None = None) -> None:
        """Tell everyone who waits that the adapter is there, or cannot be."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(error) if error else waiter.set_result(None)

    def status(self) -> dict[str, Any]:
        """Return what people want to know."""
        return {
            "name": self.spec.name,
            "key": self.spec.key,
            "state": self.state,
            "bytes": self.num_bytes,
            "requests": self.num_users,
        }


class Adapters:
    """Every adapter of one engine process. Belongs to one event loop.

    Args:
        clock: Unix seconds.
        send: passes a message to the engine.
        works: those that wait for an adapter to be loaded again are among them.
        is_model_ready: says whether the model of this key is loaded.
        on_change: called when there may be something to load or evict.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Callable[[], float],
        send: Callable[[ToEngine], None],
        works: Works,
        is_model_ready: Callable[[str], bool],
        on_change: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._send = send
        self._works = works
        self._is_model_ready = is_model_ready
        self._on_change = on_change
        self._adapters: dict[str, Adapter] = {}

    # -- for requests ----------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def hold(
        self, model: ModelSpec, priority: Priority, deadline_s: float | None
    ) -> AsyncIterator[Callable[[], None]]:
        """Keep a model's adapter, if it has one, loading it first if need be; the model is held.

        Yields what lets go of it before the end.

        Raises:
            DeadlineExceededError: it was not there within ``deadline_s`` seconds.
            OutOfMemoryError: there is no room for it.
            LlmosError: it cannot be loaded, or its model is gone.
        """
        if (spec := model.adapter) is None:
            yield lambda: None
            return
        wanted = Adapter(model.key, spec, spec.estimate_bytes)
        adapter = self._adapters.setdefault(wanted.key, wanted)
        adapter.num_users += 1
        adapter.is_retired = False
        adapter.last_used_at = self._clock()
        with contextlib.ExitStack() as held:
            held.callback(self._let_go, adapter)
            if adapter.state != "ready":
                await self._wait(adapter, priority, deadline_s)
            yield held.close

    def _let_go(self, adapter: Adapter) -> None:
        adapter.num_users -= 1
        adapter.last_used_at = self._clock()
        if adapter.is_retired:
            self.evict(adapter.key)
        self._forget_if_unused(adapter)

    async def _wait(self, adapter: Adapter, priority: Priority, deadline_s: float | None) -> None:
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not adapter.waiters:
            adapter.wanted_since = self._clock()
        adapter.waiters[ready] = priority
        self._on_change()
        try:
            await wait_until_ready(ready, deadline_s)
        finally:
            adapter.waiters.pop(ready, None)

    def is_ready(self, live: LiveWork) -> bool:
        """Whether the adapter of a work, if it has one, is loaded over its ready model."""
        adapter_key = adapter_of(live.work)
        adapter = self._adapters.get(f"{live.key}+{adapter_key}")
        return not adapter_key or (adapter is not None and adapter.state == "ready")

    def status(self, model_key: str) -> list[dict[str, Any]]:
        """Return what people want to know of each adapter over a model."""
        return [adapter.status() for adapter in self._over(model_key)]

    # -- for the scheduler -----------------------------------------------------------------------

    def resident(self) -> Iterator[ResidentModel]:
        """Yield the adapters that hold memory."""
        for adapter in self._adapters.values():
            if adapter.state != "absent":
                yield ResidentModel(
                    adapter.key,
                    adapter.num_bytes,
                    adapter.state,
                    adapter.num_users,
                    adapter.last_used_at,
                    adapter.load_s,
                    demand=float(adapter.num_users),
                )

    def wanted(self) -> Iterator[WantedModel]:
        """Yield the adapters that someone waits for and that are not in memory."""
        for adapter in self._adapters.values():
            priorities = [at for waiter, at in adapter.waiters.items() if not waiter.done()]
            priorities += (live.work.priority for live in self._works_over(adapter))
            is_absent = adapter.state == "absent" and self._is_model_ready(adapter.model_key)
            if is_absent and priorities:
                since = adapter.wanted_since
                yield WantedModel(
                    adapter.key,
                    adapter.num_bytes,
                    min(priorities),
                    since,
                    over=adapter.model_key,
                )

    def load(self, key: str) -> None:
        """Load an adapter, if its model is there. Raises OutOfMemoryError: there is no room."""
        adapter = self._adapters.get(key)
        if adapter and adapter.state == "absent" and self._is_model_ready(adapter.model_key):
            self._ledger.reserve(adapter.ledger_key, adapter.num_bytes)
            self._start_load(adapter)

    def evict(self, key: str) -> None:
        """Drop an adapter, unless someone uses it."""
        adapter = self._adapters.get(key)
        if adapter and adapter.state == "ready" and not adapter.num_users:
            self._drop(adapter)
            self._on_change()

    def retire(self, adapter_key: str) -> None:
        """Drop an adapter wherever it is loaded: at once, or when the last who uses it is done."""
        for adapter in list(self._adapters.values()):
            if adapter.spec.key == adapter_key:
                adapter.is_retired = True
                self.evict(adapter.key)

    def refuse(self, key: str, error: LlmosError) -> None:
        """Fail everyone who waits for an adapter."""
        if (adapter := self._adapters.get(key)) and adapter.state == "absent":
            self._fail(adapter, error)

    # -- what happens to its model -----------------------------------------------------------------

    def model_ready(self, model_key: str) -> None:
        """The model was loaded, maybe again: load again what is in use over it."""
        for adapter in self._over(model_key):
            if adapter.state == "loading":
                self._start_load(adapter)

    def model_gone(self, model_key: str, error: LlmosError | None = None) -> None:
        """The model is no longer in memory, and with it every adapter over it.

        Args:
            error: why it will not come back; None: whoever still wants it waits.
        """
        for adapter in self._over(model_key):
            if error is not None:
                self._fail(adapter, error)
            else:
                self._release(adapter)

    def engine_down(self, reason: str) -> None:
        """Keep the memory of what is in use, for it will be loaded again; let the rest go."""
        for adapter in list(self._adapters.values()):
            adapter.load_deaths += adapter.state == "loading" and adapter.is_sent
            adapter.is_sent = False
            if adapter.load_deaths >= MAX_DEATHS:
                text = f"The engine {reason} while it loaded {adapter.spec.name}."
                self._fail(adapter, EngineError(text))
            elif adapter.num_users and adapter.state != "absent":
                adapter.state = "loading"
            else:
                self._release(adapter)

    # -- what the engine says ----------------------------------------------------------------------

    def take(self, message: AdapterMessage) -> bool:
        """Take what became of a load; True when works over the adapter may go on."""
        adapter = self._adapters.get(f"{message.key}+{message.adapter}")
        if adapter is None or adapter.state != "loading":
            return False
        match message:
            case AdapterLoaded():
                return self._loaded(adapter, message)
            case AdapterFailed(_, _, code, text):
                self._fail(adapter, told_error(code, text))
        return False

    def _loaded(self, adapter: Adapter, message: AdapterLoaded) -> bool:
        adapter.num_bytes, adapter.load_s = message.num_bytes, message.load_s
        adapter.load_deaths = 0
        try:
            self._ledger.correct(adapter.ledger_key, adapter.num_bytes)
        except OutOfMemoryError:  # it is larger than it seemed: ask the scheduler for that much
            self._drop(adapter)
            self._on_change()
            return False
        adapter.state = "ready"
        adapter.resolve_waiters()
        self._drop_surplus(adapter.model_key)
        return True

    # -- parts -------------------------------------------------------------------------------------

    def _over(self, model_key: str) -> list[Adapter]:
        return [one for one in self._adapters.values() if one.model_key == model_key]

    def _start_load(self, adapter: Adapter) -> None:
        adapter.state, adapter.is_sent = "loading", True
        self._send(LoadAdapter(adapter.model_key, adapter.spec.key, adapter.spec.path))

    def _drop_surplus(self, model_key: str) -> None:
        """Drop the adapters unused for longest, where there are too many over one model."""
        loaded = [one for one in self._over(model_key) if one.state == "ready"]
        idle = sorted((one for one in loaded if not one.num_users), key=lambda a: a.last_used_at)
        for adapter in idle[: max(0, len(loaded) - MAX_LOADED)]:
            self._drop(adapter)

    def _drop(self, adapter: Adapter) -> None:
        self._send(UnloadAdapter(adapter.model_key, adapter.spec.key))
        self._release(adapter)

    def _fail(self, adapter: Adapter, error: LlmosError) -> None:
        """Give up on an adapter: everyone who waits for it, or works over it, gets ``error``."""
        self._release(adapter)
        adapter.load_deaths = 0
        adapter.resolve_waiters(error)
        for live in self._works_over(adapter):
            self._works.fail(live.id, error)
        self._on_change()

    def _works_over(self, adapter: Adapter) -> list[LiveWork]:
        works = self._works.of(adapter.model_key)
        return [live for live in works if adapter_of(live.work) == adapter.spec.key]

    def _release(self, adapter: Adapter) -> None:
        """Give its memory back."""
        self._ledger.release(adapter.ledger_key)
        adapter.state = "absent"
        self._forget_if_unused(adapter)

    def _forget_if_unused(self, adapter: Adapter) -> None:
        if adapter.state == "absent" and not adapter.num_users:
            self._adapters.pop(adapter.key, None)


def adapter_of(work: Work) -> str:
    """Return the key of the adapter that a work runs over; empty for none."""
    return work.adapter if isinstance(work, GenerateWork) else ""
