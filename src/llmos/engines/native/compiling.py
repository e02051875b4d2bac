"""Works whose grammars are still being compiled, in another thread, before they join the batch."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

from llmos.engines.native.grammar import Grammars, GrammarState
from llmos.errors import DeadlineExceededError, EngineError, LlmosError
from llmos.types import GenerateWork


@dataclass(frozen=True, slots=True)
class Compiling:
    """A work, when it came in, and its grammar to be."""

    id: str
    work: GenerateWork
    submitted_s: float
    grammar: Future[GrammarState]

    def outcome(self, now: float) -> GrammarState | LlmosError | None:
        """Return the compiled grammar, why there is none, or None while it takes its time."""
        deadline_s = self.work.deadline_s
        if self.submitted_s + (math.inf if deadline_s is None else deadline_s) <= now:
            self.grammar.cancel()
            return DeadlineExceededError()
        if not self.grammar.done():
            return None
        error = self.grammar.exception()
        if error is None:
            return self.grammar.result()
        if isinstance(error, LlmosError):
            return error
        # Also a panic of the compiler, which is no Exception: it is about this work alone.
        traceback.print_exception(error)
        return EngineError(f"The grammar could not be compiled: {error}")


class CompilingWorks:
    """The works that wait for their grammars.

    Args:
        grammars: compiles them.
        on_done: called when one is compiled, from any thread.
    """

    def __init__(self, grammars: Grammars, on_done: Callable[[], None] = lambda: None) -> None:
        self._grammars = grammars
        self._on_done = on_done
        self._works: dict[str, Compiling] = {}

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Compiling]:
        return iter(self._works.values())

    def start(self, work_id: str, work: GenerateWork, now: float) -> None:
        """Compile the grammar of a work."""
        assert work.grammar is not None
        future = self._grammars.start(work.grammar, work.eos_ids, work.generated_ids)
        self._works[work_id] = Compiling(work_id, work, now, future)
        future.add_done_callback(lambda _: self._on_done())

    def cancel(self, work_id: str) -> None:
        """Forget a work; unknown ids are ignored."""
        if compiling := self._works.pop(work_id, None):
            compiling.grammar.cancel()

    def take_done(self, now: float) -> list[tuple[Compiling, GrammarState | LlmosError]]:
        """Return, and forget, the works whose grammars are ready or cannot be had."""
        outcomes = [(compiling, compiling.outcome(now)) for compiling in self]
        done = [(compiling, outcome) for compiling, outcome in outcomes if outcome is not None]
        for compiling, _ in done:
            del self._works[compiling.id]
        return done

    def done(self) -> list[GenerateWork]:
        """Return the works that a step would take up, or fail."""
        return [compiling.work for compiling in self if compiling.grammar.done()]

    def close(self) -> None:
        """Forget all."""
        self._works.clear()
        self._grammars.close()
