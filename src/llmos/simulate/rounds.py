"""The models of one device taking turns: a step of each that has work is a round."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.engines.fairness import AGEING_S
from llmos.simulate.clock import picoseconds
from llmos.simulate.engine import SimulatedEngine, Step
from llmos.simulate.hardware import Hosted


@dataclass(slots=True)
class Round:
    """One step of each model that has work, some times in a row. Picoseconds."""

    begun_ps: int
    first_ps: int
    growth_ps: int
    times: int
    steps: list[tuple[Hosted, Step]]

    def length_ps(self, times: int) -> int:
        """Return what so many repetitions take together."""
        return times * self.first_ps + self.growth_ps * (times * (times - 1) // 2)


def take_turns(
    working: list[tuple[Hosted, SimulatedEngine]], now_ps: int
) -> tuple[list[tuple[Hosted, SimulatedEngine]], int | None]:
    """Return the models of the next round, and until when none other has a turn.

    While a model has work of the upper classes, one that has none gets a step only after it waited
    for as long as `fairness.pick` lets its class wait.
    """
    urgent = [engine.is_urgent for _, engine in working]
    if all(urgent) or not any(urgent):
        for hosted, _ in working:
            hosted.passed_over_ps = None
        return working, None
    taking: list[tuple[Hosted, SimulatedEngine]] = []
    until_ps: int | None = None
    for (hosted, engine), is_urgent in zip(working, urgent, strict=True):
        if not is_urgent:
            if hosted.passed_over_ps is None:
                hosted.passed_over_ps = now_ps
            patience_ps = (engine.best_class + 1) * picoseconds(AGEING_S)
            due_ps = max(now_ps, hosted.passed_over_ps + patience_ps)
            until_ps = due_ps if until_ps is None else min(until_ps, due_ps)
            if due_ps > now_ps:
                continue
        hosted.passed_over_ps = None
        taking.append((hosted, engine))
    return taking, until_ps


def rounds_until(current: Round, now_ps: int) -> int:
    """Return the fewest rounds, one at least, that do not end before ``now_ps``."""
    passed_ps, least, most = now_ps - current.begun_ps, 1, current.times
    while least < most:
        middle = (least + most) // 2
        if current.length_ps(middle) < passed_ps:
            least = middle + 1
        else:
            most = middle
    return least
