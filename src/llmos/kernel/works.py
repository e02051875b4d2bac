"""Work that the engine does for open requests, and what becomes of it when the engine dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from llmos.errors import EngineError, InvalidRequestError, LlmosError
from llmos.kernel.protocol import Cancel, Submit, ToEngine, UnsendableError
from llmos.types import GenerateWork, PipelineOut, TokensOut, Work, WorkOut

MAX_DEATHS = 3
SUSPECT_DEATHS = 2


@dataclass(slots=True, eq=False)
class LiveWork:
    """One piece of work: what was asked, what came back, how often the engine died over it."""

    id: str
    key: str
    work: Work
    outputs: asyncio.Queue[WorkOut | LlmosError] = field(default_factory=asyncio.Queue)
    generated_ids: list[int] = field(default_factory=list)
    deaths: int = 0
    """Engine deaths in a row while this was in it and gave nothing."""
    state: Literal["waiting", "sent", "ended"] = "waiting"

    @property
    def is_suspect(self) -> bool:
        return self.deaths >= SUSPECT_DEATHS

    async def next(self) -> WorkOut:
        """Return the next output. Raises the typed error the work failed with."""
        out = await self.outputs.get()
        if isinstance(out, LlmosError):
            raise out
        return out

    def message(self) -> Submit:
        """Return what to send so that the engine goes on after the tokens already received."""
        if isinstance(self.work, GenerateWork):
            generated = (*self.work.generated_ids, *self.generated_ids)
            return Submit(
                self.id, self.key, msgspec.structs.replace(self.work, generated_ids=generated)
            )
        return Submit(self.id, self.key, self.work)


class Works:
    """Every live work. Sends those whose model is ready, takes what the engine says of them.

    A work over which the engine died twice running is sent only while no other such work is in the
    engine: so the one that kills it is found out, and the others finish.

    Args:
        send: passes a message to the engine; raises UnsendableError before anything was sent.
        is_ready: says whether the model of this key is loaded.
    """

    def __init__(self, send: Callable[[ToEngine], None], is_ready: Callable[[str], bool]) -> None:
        self._send = send
        self._is_ready = is_ready
        self._works: dict[str, LiveWork] = {}
        self._ids = itertools.count(1)

    def add(self, key: str, work: Work) -> LiveWork:
        """Take work on and send it as soon as its model is ready."""
        live = LiveWork(str(next(self._ids)), key, work)
        self._works[live.id] = live
        self.dispatch()
        return live

    def of(self, key: str) -> list[LiveWork]:
        """Return the live works of a model."""
        return [live for live in self._works.values() if live.key == key]

    def dispatch(self) -> None:
        """Send what may be sent now; what cannot be sent at all fails alone."""
        for live in list(self._works.values()):
            if live.state == "waiting" and self._is_ready(live.key) and self._may_go(live):
                try:
                    self._send(live.message())
                except UnsendableError as error:
                    refusal = InvalidRequestError(f"The request cannot be sent: {error}.")
                    self.fail(live.id, refusal)
                else:
                    live.state = "sent"

    def drop(self, live: LiveWork) -> None:
        """Forget a work; one that the engine still does is cancelled there."""
        if live.state == "sent":
            self._send(Cancel(live.id))
        self.fail(live.id, EngineError("The request was given up."))

    def take_output(self, work_id: str, out: WorkOut) -> None:
        """Pass an output on; ignored when nobody waits for it any more."""
        if live := self._works.get(work_id):
            live.outputs.put_nowait(out)
            if isinstance(out, TokensOut):
                live.generated_ids += (piece.token_id for piece in out.pieces)
            if isinstance(out, PipelineOut) or out.finish_reason is not None:
                self._end(live)
            elif live.is_suspect:
                live.deaths = 0
                self.dispatch()
            live.deaths = 0

    def fail(self, work_id: str, error: LlmosError) -> None:
        """End a work with an error; ignored when nobody waits for it any more."""
        if live := self._works.get(work_id):
            live.outputs.put_nowait(error)
            self._end(live)

    def engine_died(self, reason: str) -> None:
        """Make what was in the engine wait for the next one; fail what it died over too often."""
        for live in [live for live in self._works.values() if live.state == "sent"]:
            live.deaths += 1
            live.state = "waiting"
            if live.deaths >= MAX_DEATHS:
                times = f"{live.deaths} times in a row"
                self.fail(live.id, EngineError(f"The engine {reason}, {times} at this request."))

    def _may_go(self, live: LiveWork) -> bool:
        if not live.is_suspect:
            return True
        return not any(other.is_suspect and other.state == "sent" for other in self._works.values())

    def _end(self, live: LiveWork) -> None:
        live.state = "ended"
        if self._works.pop(live.id, None) and live.is_suspect:
            self.dispatch()
