"""Work that the engine does for open requests, and what becomes of it when the engine dies."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from llmos.errors import DeadlineExceededError, EngineError, InvalidRequestError, LlmosError
from llmos.kernel.deferring import DEFER_S, is_deferred, is_urgent
from llmos.kernel.protocol import Cancel, Submit, ToEngine, UnsendableError, joined
from llmos.kernel.telemetry import Meter
from llmos.types import GenerateWork, PipelineOut, TokensOut, Work, WorkOut

MAX_DEATHS = 3
SUSPECT_DEATHS = 2

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class LiveWork:
    """One piece of work: what was asked, what came back, how often the engine died over it.

    Times are monotonic seconds. What came back and was not taken yet is kept here however slow its
    reader is: at most as much as was asked for.
    """

    id: str
    key: str
    work: Work
    meter: Meter | None = None
    deadline_at: float | None = None
    timer: asyncio.TimerHandle | None = None
    """Fires at the deadline."""
    defer_timer: asyncio.TimerHandle | None = None
    """Fires when it has been deferred for long enough."""
    begun_at: float = 0.0
    on_end: Callable[[], None] = lambda: None
    """Called when the engine has nothing more to do for it."""
    generated_ids: list[int] = field(default_factory=list)
    deaths: int = 0
    """Engine deaths in a row while this was in it and gave nothing."""
    state: Literal["waiting", "sent", "ended"] = "waiting"
    sent_at: float = 0.0
    _outputs: list[WorkOut | LlmosError] = field(default_factory=list)
    _arrival: asyncio.Future[None] | None = None

    @property
    def is_suspect(self) -> bool:
        return self.deaths >= SUSPECT_DEATHS

    def put(self, out: WorkOut | LlmosError) -> None:
        """Keep an output for whoever waits for it."""
        self._outputs.append(out)
        if self._arrival is not None and not self._arrival.done() and self._is_due():
            self._arrival.set_result(None)

    async def next(self) -> WorkOut:
        """Return what has come since the last call; tokens are joined to one output.

        Of a work that is wanted whole that is everything, once it has ended: to wake for each token
        of an answer that nobody reads yet is what a server with many of them does most.

        Raises:
            LlmosError: what the work failed with, after everything that came before.
        """
        if not self._is_due():
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        first = self._outputs[0]
        if isinstance(first, LlmosError):
            raise first
        if not isinstance(first, TokensOut):
            self._outputs.clear()
            return first
        tokens = [out for out in self._outputs if isinstance(out, TokensOut)]
        del self._outputs[: len(tokens)]
        return joined(tokens)

    def _is_due(self) -> bool:
        """Whether there is something that may be taken now."""
        if not self._outputs or not isinstance(self.work, GenerateWork) or not self.work.is_whole:
            return bool(self._outputs)
        last = self._outputs[-1]
        return not isinstance(last, TokensOut) or last.finish_reason is not None

    def message(self, now: float) -> Submit:
        """Return what to send so that the engine goes on after the tokens already received."""
        work = self.work
        if self.deadline_at is not None:
            work = msgspec.structs.replace(work, deadline_s=max(self.deadline_at - now, 0.0))
        if isinstance(work, GenerateWork) and self.generated_ids:
            generated_ids = (*work.generated_ids, *self.generated_ids)
            work = msgspec.structs.replace(work, generated_ids=generated_ids)
        return Submit(self.id, self.key, work)


class Works:
    """Every live work. Sends those whose model is ready, takes what the engine says of them.

    Works of the lower classes wait while there are urgent ones for other models, see `deferring`.

    A work over which the engine died twice running is sent only while no other such work is in the
    engine: so the one that kills it is found out, and the others finish.

    Args:
        send: passes a message to the engine; raises UnsendableError before anything was sent.
        is_ready: says whether what a work needs is loaded: its model, and its adapter.
        is_leaving: says whether a model is to be evicted as soon as its works have ended, which so
            wait for nobody.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        send: Callable[[ToEngine], None],
        is_ready: Callable[[LiveWork], bool],
        clock: Callable[[], float] = time.monotonic,
        is_leaving: Callable[[str], bool] = lambda key: False,
    ) -> None:
        self._send = send
        self._is_ready = is_ready
        self._is_leaving = is_leaving
        self._clock = clock
        self._works: dict[str, LiveWork] = {}
        self._urgent: Counter[str] = Counter()
        """Urgent works by model."""
        self._ids = itertools.count(1)

    def add(
        self, key: str, work: Work, meter: Meter | None = None, deadline_at: float | None = None
    ) -> LiveWork:
        """Take work on and send it as soon as its model is ready; give it up at its deadline."""
        live = LiveWork(str(next(self._ids)), key, work, meter, deadline_at, begun_at=self._clock())
        self._works[live.id] = live
        self._urgent[key] += is_urgent(work.priority)
        if deadline_at is not None:
            left_s = max(deadline_at - self._clock(), 0.0)
            live.timer = asyncio.get_running_loop().call_later(left_s, self._expire, live)
        self._dispatch_one(live)
        return live

    def of(self, key: str) -> list[LiveWork]:
        """Return the live works of a model."""
        return [live for live in self._works.values() if live.key == key]

    def oldest_sent_at(self) -> float | None:
        """Return since when the engine has had work without a break; None when it has none."""
        return min(
            (live.sent_at for live in self._works.values() if live.state == "sent"), default=None
        )

    def dispatch(self) -> None:
        """Send what may be sent now; what cannot be sent at all fails alone."""
        for live in list(self._works.values()):
            self._dispatch_one(live)

    def drop(self, live: LiveWork, error: LlmosError | None = None) -> None:
        """Forget a work; one that the engine still does is cancelled there."""
        if live.state == "sent":
            self._send(Cancel(live.id))
        self.fail(live.id, error or EngineError("The request was given up."))

    def take_output(self, work_id: str, out: WorkOut) -> None:
        """Pass an output on; ignored when nobody waits for it any more."""
        if (live := self._works.get(work_id)) is None:
            return
        live.put(out)
        if isinstance(out, TokensOut):
            live.generated_ids += [piece.token_id for piece in out.pieces]
            if live.meter is not None:
                live.meter.took(out, self._clock())
        elif live.meter is not None:
            live.meter.made(out)
        if isinstance(out, PipelineOut) or out.finish_reason is not None:
            self._end(live)
        elif live.meter is not None and (refusal := live.meter.refusal()) is not None:
            self.drop(live, refusal)
        elif live.is_suspect:
            live.deaths = 0
            self.dispatch()
        live.deaths = 0

    def fail(self, work_id: str, error: LlmosError) -> None:
        """End a work with an error; ignored when nobody waits for it any more."""
        if live := self._works.get(work_id):
            live.put(error)
            self._end(live)

    def engine_died(self, reason: str) -> None:
        """Make what was in the engine wait for the next one; fail what it died over too often."""
        sent = [live for live in self._works.values() if live.state == "sent"]
        num_failed = 0
        for live in sent:
            live.deaths += 1
            live.state = "waiting"
            if live.deaths >= MAX_DEATHS:
                times = f"{live.deaths} times in a row"
                self.fail(live.id, EngineError(f"The engine {reason}, {times} at this request."))
                num_failed += 1
        going_on = f"{len(sent) - num_failed} works go on in the next one"
        log.warning("the engine %s: %s, %d are given up", reason, going_on, num_failed)

    def _dispatch_one(self, live: LiveWork) -> None:
        now = self._clock()
        if live.state != "waiting" or not self._is_ready(live) or not self._may_go(live, now):
            return
        try:
            self._send(live.message(now))
        except UnsendableError as error:
            self.fail(live.id, InvalidRequestError(f"The request cannot be sent: {error}."))
        else:
            live.state, live.sent_at = "sent", now

    def _may_go(self, live: LiveWork, now: float) -> bool:
        waited_s = now - live.begun_at
        num_urgent_elsewhere = self._urgent.total() - self._urgent[live.key]
        is_kept = is_deferred(live.work.priority, num_urgent_elsewhere, waited_s)
        if is_kept and not self._is_leaving(live.key):
            if live.defer_timer is None:
                call_later = asyncio.get_running_loop().call_later
                live.defer_timer = call_later(DEFER_S - waited_s, self._dispatch_one, live)
            return False
        if not live.is_suspect:
            return True
        return not any(other.is_suspect and other.state == "sent" for other in self._works.values())

    def _expire(self, live: LiveWork) -> None:
        self.drop(live, DeadlineExceededError())

    def _end(self, live: LiveWork) -> None:
        live.state = "ended"
        for timer in (live.timer, live.defer_timer):
            if timer is not None:
                timer.cancel()
        if self._works.pop(live.id, None) is None:
            return
        if live.meter is not None:
            live.meter.end()
        live.on_end()
        may_free_others = self._no_longer_urgent(live)
        if live.is_suspect or may_free_others:
            self.dispatch()

    def _no_longer_urgent(self, live: LiveWork) -> bool:
        """Take a work that ended out of account; return whether others may have waited for it."""
        if not is_urgent(live.work.priority):
            return False
        self._urgent[live.key] -= 1
        if not self._urgent[live.key]:
            del self._urgent[live.key]
        return live.key not in self._urgent


async def wait_until_ready(ready: asyncio.Future[None], deadline_s: float | None) -> None:
    """Wait for what a work needs to be loaded; raises DeadlineExceededError, or why it cannot be.

    A TimeoutError that is not the deadline's own comes through as it is.
    """
    try:
        async with asyncio.timeout(deadline_s) as timeout:
            await ready
    except TimeoutError:
        if not timeout.expired():
            raise
        raise DeadlineExceededError from None
