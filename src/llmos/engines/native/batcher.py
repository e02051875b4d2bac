"""What the next step computes: a pure decision over counts, with no tensors, clocks or I/O.

Rows that decode go first, one token each. What remains of the step's token budget goes to prefill
chunks, best rank first, admitting waiting rows while there are blocks for them. A row is ranked by
priority, then arrival. When blocks run out the worst-ranked row is preempted: it loses its blocks
and is computed again later.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence. ``num_tokens`` are known (prompt and generated), ``num_cached`` computed."""

    id: str
    priority: int
    arrival: int
    num_tokens: int
    num_cached: int = 0
    num_blocks: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        return (self.priority, self.arrival)

    @property
    def num_left(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return self.num_tokens - self.num_cached


@dataclass(frozen=True, slots=True)
class State:
    """What ``plan`` decides on. The cache must be able to hold any one row to its full length."""

    running: tuple[Row, ...]
    waiting: tuple[Row, ...]
    free_blocks: int
    block_size: int
    max_step_tokens: int
    max_rows: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Compute the next ``num_tokens`` of a row, after giving it ``num_new_blocks``."""

    id: str
    num_tokens: int
    num_new_blocks: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Release the blocks of ``preempted`` first, then run ``chunks`` in their order."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[str, ...]


def plan(state: State) -> StepPlan:
    """Return the next step. It is empty only when there are no rows."""
    draft = _Draft(state)
    _plan_decodes(draft)
    _plan_prefills(draft)
    return StepPlan(tuple(draft.chunks.values()), tuple(draft.preempted))


def _plan_decodes(draft: _Draft) -> None:
    for row in sorted(draft.state.running, key=lambda row: row.rank):
        if row.num_left != 1 or row.id not in draft.alive:
            continue
        num_new_blocks = draft.num_missing_blocks(row, row.num_tokens)
        while num_new_blocks > draft.free_blocks and row.id in draft.alive:
            draft.preempt(max(draft.alive.values(), key=lambda row: row.rank))
            draft.under_pressure = True
        if row.id in draft.alive:
            draft.schedule(row, 1, num_new_blocks)


def _plan_prefills(draft: _Draft) -> None:
    waiting = {row.id for row in draft.state.waiting}
    admits = not draft.under_pressure
    for row in sorted(draft.prefills(), key=lambda row: row.rank):
        if draft.budget_tokens <= 0:
            return
        num_new_blocks = 0
        if row.id in waiting:
            # One block more than it needs now, so that it does not ask for one at once.
            num_new_blocks = draft.num_missing_blocks(row, row.num_tokens + 1)
            # Who does not fit holds back those behind it, or it might wait for ever.
            admits = admits and _admit(draft, row, num_new_blocks)
            if not admits:
                continue
        elif row.id not in draft.alive:
            continue
        draft.schedule(row, min(row.num_left, draft.budget_tokens), num_new_blocks)


def _admit(draft: _Draft, row: Row, num_blocks: int) -> bool:
    """Make room for a waiting row, if need be by preempting rows of a worse priority class."""
    victims = sorted(
        (other for other in draft.alive.values() if other.priority > row.priority),
        key=lambda other: other.rank,
    )
    available = draft.free_blocks + sum(draft.num_held_blocks(other) for other in victims)
    fits_rows = len(draft.alive) - len(victims) < draft.state.max_rows
    if num_blocks > available or not fits_rows:
        return False
    while num_blocks > draft.free_blocks or len(draft.alive) >= draft.state.max_rows:
        draft.preempt(victims.pop())
    draft.alive[row.id] = row
    return True


@dataclass(slots=True)
class _Draft:
    """The step under construction: who is alive, what is scheduled, what is left to give."""

    state: State
    chunks: dict[str, Chunk] = field(default_factory=dict)
    preempted: list[str] = field(default_factory=list)
    under_pressure: bool = False
    """A decoding row had to preempt another: admit nobody in this step."""
    alive: dict[str, Row] = field(init=False)
    free_blocks: int = field(init=False)
    budget_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.alive = {row.id: row for row in self.state.running}
        self.free_blocks = self.state.free_blocks
        self.budget_tokens = self.state.max_step_tokens

    def prefills(self) -> Iterator[Row]:
        yield from (row for row in self.state.running if row.num_left > 1)
        yield from self.state.waiting

    def num_missing_blocks(self, row: Row, num_tokens: int) -> int:
        return max(0, -(-num_tokens // self.state.block_size) - row.num_blocks)

    def num_held_blocks(self, row: Row) -> int:
        chunk = self.chunks.get(row.id)
        return row.num_blocks + (chunk.num_new_blocks if chunk else 0)

    def schedule(self, row: Row, num_tokens: int, num_new_blocks: int) -> None:
        self.chunks[row.id] = Chunk(row.id, num_tokens, num_new_blocks)
        self.free_blocks -= num_new_blocks
        self.budget_tokens -= num_tokens

    def preempt(self, row: Row) -> None:
        self.free_blocks += self.num_held_blocks(row)
        if chunk := self.chunks.pop(row.id, None):
            self.budget_tokens += chunk.num_tokens
        del self.alive[row.id]
        self.preempted.append(row.id)
