"""A lease: a loaded model that stays loaded while it is held, and the works done under it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import msgspec

from llmos.errors import OverloadedError
from llmos.kernel.telemetry import Meter, Metered
from llmos.kernel.works import LiveWork
from llmos.types import GenerateWork, PipelineOut, PipelineWork, TokensOut, Work

Start = Callable[[Work, Meter, float | None], LiveWork]
"""Takes on a work, its meter and its deadline (monotonic seconds or None)."""


class Lease:
    """A loaded model that stays loaded while this is held; loaded again if the engine dies.

    Args:
        start: passes a work to the model.
        drop: cancels one.
        metered: what the works are counted in, and whose tokens they take.
        clock: monotonic seconds.
        max_works: works that may be under way at a time.
        deadline_at: monotonic seconds at which every work fails.
        adapter: key of the adapter that generations use; empty: none.
        num_works: works there will be, if that is known.
        on_done: called when so many have ended. What came of them can still be read.
    """

    def __init__(
        self,
        start: Start,
        drop: Callable[[LiveWork], None],
        metered: Metered,
        clock: Callable[[], float],
        *,
        max_works: int,
        deadline_at: float | None,
        adapter: str = "",
        num_works: int | None = None,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self._start = start
        self._drop = drop
        self._metered = metered
        self._clock = clock
        self._max_works = max_works
        self._deadline_at = deadline_at
        self._adapter = adapter
        self._num_left = num_works
        self._on_done = on_done
        self._begun_at: float | None = clock()
        self._live: set[LiveWork] = set()

    async def generate(self, work: GenerateWork) -> AsyncGenerator[TokensOut, None]:
        """Yield tokens as they are sampled; the last output has a ``finish_reason``.

        What is sampled while the reader is elsewhere comes as one output. Closing the generator, or
        the lease, cancels the work in the engine. When the engine dies, the stream goes on with the
        same tokens.

        Raises:
            OverloadedError: this request has too many works under way.
            QuotaExceededError: the tenant's tokens or compute seconds of the day are used up, by
                this work or before it.
            DeadlineExceededError: the lease's deadline, or the work's own, passed.
            EngineError: the engine died three times running at this request.
            LlmosError: whatever the engine says is wrong with the request.
        """
        if self._adapter:
            work = msgspec.structs.replace(work, adapter=self._adapter)
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
        if len(self._live) >= self._max_works:
            raise OverloadedError(f"This request has {len(self._live)} works under way already.")
        now = self._clock()
        deadlines = [] if self._deadline_at is None else [self._deadline_at]
        if work.deadline_s is not None:
            deadlines.append(now + work.deadline_s)
        # The first token of the first work was waited for since the request came.
        begun_at, is_first = self._begun_at or now, self._begun_at is not None
        meter = self._metered.meter(work, begun_at, is_first=is_first)
        self._begun_at = None
        live = self._start(work, meter, min(deadlines, default=None))
        live.on_end = self._one_ended
        self._live.add(live)
        return live

    def _one_ended(self) -> None:
        if self._num_left is not None:
            self._num_left -= 1
            if self._num_left == 0:
                self._on_done()

    def _end(self, live: LiveWork) -> None:
        self._live.discard(live)
        self._drop(live)
