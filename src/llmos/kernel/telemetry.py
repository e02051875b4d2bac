"""What has been served so far, per model and class: times, tokens and outcomes as plain numbers.

Made for the token path: taking note of a token costs about a microsecond. How it is shown is the
server's business (`/metrics`); whose tokens they are, `tabs` counts.
"""

from __future__ import annotations

import asyncio
import contextlib
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add

from llmos.errors import LlmosError
from llmos.kernel.tabs import Account, Tab, WorkTab
from llmos.types import EngineStats, GenerateWork, PipelineOut, Priority, TokensOut, Work

TTFT_BOUNDS_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
ITL_BOUNDS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 5.0)
MAX_MODELS = 1000
"""Models remembered; beyond, the one that was first used longest ago is forgotten."""
_EVENTS = ("prefix_query_tokens", "prefix_hit_tokens", "draft_tokens", "accepted_tokens")


class Histogram:
    """Counts of values at or below each bound, and above the last; their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Note a value, ``count`` times."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count


@dataclass(slots=True)
class Tally:
    """What one model has served in one class."""

    ttft_s: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS_S))
    itl_s: Histogram = field(default_factory=lambda: Histogram(ITL_BOUNDS_S))
    prompt_tokens: int = 0
    generated_tokens: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Ended requests: by ``ok``, ``cancelled`` or the code of their error."""

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Count the outcome of a request, which is what happens inside."""
        try:
            yield
        except LlmosError as error:
            self.outcomes[error.code] += 1
            raise
        except (asyncio.CancelledError, GeneratorExit):
            self.outcomes["cancelled"] += 1
            raise
        except BaseException:
            self.outcomes[LlmosError.code] += 1
            raise
        self.outcomes["ok"] += 1


@dataclass(slots=True)
class ModelTally:
    """What one model has served, since the server started and whichever engine did it."""

    classes: tuple[Tally, ...] = field(default_factory=lambda: tuple(Tally() for _ in Priority))
    preemptions: list[int] = field(default_factory=lambda: [0 for _ in Priority])
    events: Counter[str] = field(default_factory=Counter)
    """The counters of EngineStats that are not per class, by name."""

    def absorb(self, old: EngineStats, new: EngineStats) -> None:
        """Add what an engine counted between two of its reports."""
        gained = (max(a - b, 0) for a, b in zip(new.preemptions, old.preemptions, strict=True))
        self.preemptions = list(map(add, self.preemptions, gained))
        for name in _EVENTS:
            self.events[name] += max(getattr(new, name) - getattr(old, name), 0)


class Meter:
    """Follows one work: when its tokens came and how many. Times are monotonic seconds."""

    __slots__ = ("_last_at", "_num_prompt", "_seen_first", "_tab", "_tally")

    def __init__(
        self, tally: Tally, work: Work, begun_at: float, tab: WorkTab | None = None
    ) -> None:
        self._tally = tally
        self._tab = tab
        self._last_at = begun_at
        self._num_prompt = len(work.prompt_ids) if isinstance(work, GenerateWork) else 0
        self._seen_first = False

    def took(self, out: TokensOut, now: float) -> None:
        """Note tokens that came at ``now``; those that came together share the time they took."""
        if out.num_cached and self._tab is not None:
            self._tab.found(out.num_cached)
        if not (count := len(out.pieces)):
            return
        if self._tab is not None:
            self._tab.wrote(count)
        tally = self._tally
        passed_s = now - self._last_at
        self._last_at = now
        tally.generated_tokens += count
        if self._seen_first:
            tally.itl_s.observe(passed_s / count, count)
            return
        self._seen_first = True
        tally.prompt_tokens += self._num_prompt
        tally.ttft_s.observe(passed_s)
        if count > 1:
            tally.itl_s.observe(0.0, count - 1)

    def made(self, out: PipelineOut) -> None:
        """Note the result of a forward task."""
        if self._tab is not None:
            self._tab.made(out)

    def end(self) -> None:
        """Note that nothing more comes."""
        if self._tab is not None:
            self._tab.end()

    def refusal(self) -> LlmosError | None:
        """Return why the work may not go on: its owner's tokens are used up."""
        if self._tab is None or not self._tab.tab.is_spent:
            return None
        return self._tab.tab.refusal()


@dataclass(frozen=True, slots=True)
class Metered:
    """What the works of one request are counted in.

    Args:
        tallies: of the model, by class.
        tab: of the request's owner at the model.
    """

    tallies: Sequence[Tally]
    tab: Tab

    def meter(self, work: Work, begun_at: float, *, is_first: bool = True) -> Meter:
        """Return the meter of a work, its prompt charged unless an earlier one brought it.

        Raises:
            QuotaExceededError: the owner's quota does not allow it.
        """
        tab = WorkTab(self.tab, work, is_first=is_first)
        return Meter(self.tallies[work.priority], work, begun_at, tab)


TabOf = Callable[[str, str], Tab]
"""Returns the tab of an owner at a model (``name:number``)."""


def tab_of_nobody(owner: str, model: str) -> Tab:
    """Return a tab that nobody looks at, without limits."""
    return Tab(Account(owner), model, lambda: 0.0)


class Telemetry:
    """The tallies of one system, by model name; and who is charged for what.

    Args:
        tab_of: finds an owner's tab; what is put on others is forgotten.

    Attributes:
        engine_starts: engine processes that came up.
        engine_deaths: those that ended without being told to, or could not be started.
    """

    def __init__(self, tab_of: TabOf = tab_of_nobody) -> None:
        self._tab_of = tab_of
        self.engine_starts = 0
        self.engine_deaths = 0
        self._models: dict[str, ModelTally] = {}

    def of(self, name: str) -> ModelTally:
        """Return a model's tally, a new one if need be."""
        if (tally := self._models.get(name)) is None:
            if len(self._models) >= MAX_MODELS:
                del self._models[next(iter(self._models))]
            tally = self._models[name] = ModelTally()
        return tally

    @contextlib.contextmanager
    def request(self, name: str, priority: Priority, owner: str) -> Iterator[Metered]:
        """Count a request to a model, which is what happens inside, and how it ends."""
        metered = Metered(self.of(name).classes, self._tab_of(owner, name))
        metered.tab.counts.requests += 1
        try:
            with metered.tallies[priority].request():
                yield metered
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException:
            metered.tab.counts.failed += 1
            raise

    def took(
        self, name: str, old: EngineStats, new: EngineStats, compute_s: Mapping[str, float]
    ) -> None:
        """Take an engine's report on a model: its counters, and what it computed for whom."""
        self.of(name).absorb(old, new)
        for owner, seconds in compute_s.items():
            self._tab_of(owner, name).computed(seconds)

    def find(self, name: str) -> ModelTally | None:
        """Return a model's tally, if it has one."""
        return self._models.get(name)

    def __iter__(self) -> Iterator[tuple[str, ModelTally]]:
        return iter(self._models.items())
