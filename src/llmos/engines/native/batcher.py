"""What the next step computes: a pure decision over counts, with no tensors, clocks or I/O.

A row is ranked by priority class, then its tenant's virtual time, then arrival. Class by class, the
decoding rows go first, one token each, then prefill chunks, as long as the step's tokens and time
reach. Time is kept for the decoding rows of the two upper classes (``LATENCY_CLASSES``): a prefill
chunk may not push them past their inter-token target; the rows of the lower classes use what is
left. At every limit (rows, blocks, tokens, time) a better class takes the place of a worse one;
a row that loses its blocks is computed again later, through the prefix cache. A class that others
held back for too long has its best row promoted above all, until that row ends. In a class, rows
give way to those of a tenant that had far less, one at a time and seldom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cached_property

import msgspec
from msgspec.structs import replace

from llmos.engines.native.predictor import FREE, StepCost

LATENCY_CLASSES = 2
"""Rows of the classes below this number have an inter-token target."""
NUM_CLASSES = 4
STREAMING_SHARE = 0.75
"""Of the inter-token target, what a step may take when rows with a target decode in it; the rest
is for prediction errors, other models and the way to the client."""
FILLING_SHARE = 0.45
"""Of the same, up to what rows of the lower classes may fill such a step: most steps are filled,
and most tokens should come well within the target."""
ARRIVAL_SHARE = 1.25
"""Of the same, what any other step may take: so long may a new request have to wait for it."""
YIELD_STEPS = 8
"""Rows give way to another tenant's of their class at most once in so many steps."""
MIN_CHUNK_TOKENS = 8
"""A shorter chunk of a prompt is not worth its overhead; up to so many may use the last quarter of
the target, for a prompt of the upper classes to get ahead in a full batch."""


class Row(msgspec.Struct, frozen=True):
    """One sequence. ``num_tokens`` are known (prompt and generated), ``num_cached`` computed."""

    id: str
    priority: int
    arrival: int
    num_tokens: int
    num_cached: int = 0
    blocks: Sequence[int] = ()
    """With its cached tokens. A waiting row does not hold them yet: the prefix cache has them."""
    virtual_time: float = 0.0
    """Of its tenant; the lower goes first in a class."""
    num_drafts: int = 0
    """Guessed tokens that may be computed behind the last one."""
    wants_all_logits: bool = False
    """Of each token it computes, not only of the last."""
    is_promoted: bool = False

    @property
    def rank_class(self) -> int:
        return 0 if self.is_promoted else self.priority

    @property
    def rank(self) -> tuple[int, bool, float, int]:
        return (self.rank_class, not self.is_promoted, self.virtual_time, self.arrival)

    @property
    def num_left(self) -> int:
        """Tokens to compute before the next one can be sampled."""
        return self.num_tokens - self.num_cached


class State(msgspec.Struct, frozen=True):
    """What ``plan`` decides on. The cache must be able to hold any one row to its full length.

    ``free_blocks`` counts blocks that no running row holds, cached or not. Of the waiting rows of a
    class ``max_rows`` are enough, the best by rank: no more can be admitted in a step.
    """

    running: tuple[Row, ...]
    waiting: tuple[Row, ...]
    free_blocks: int
    block_size: int
    max_step_tokens: int
    max_rows: int
    max_step_logits: int = 256
    """Bounds the memory of rows that want all logits."""
    cost: StepCost = FREE
    itl_target_s: float = float("inf")
    step_limit_s: float = float("inf")
    """What a step may take for the sake of other models."""
    tenant_lead: float = float("inf")
    """Rows whose virtual time is further ahead of another's of their class give way to it. The two
    do not take turns: it then has this lead to make up, and as much again to gain."""
    steps_since_yield: int = YIELD_STEPS
    spent_s: float = 0.0
    """Time this step has already taken."""
    held_back_tokens: tuple[int, ...] = (0,) * NUM_CLASSES
    """By class: tokens computed since it last had a part in a step, while it had rows."""
    ageing_tokens: int = 2**62
    """A class that was held back for so many has a row promoted."""


class Chunk(msgspec.Struct, frozen=True):
    """Compute the next ``num_tokens`` of a row, after giving it ``num_new_blocks``. What exceeds
    the row's known tokens are drafts."""

    id: str
    num_tokens: int
    num_new_blocks: int


class StepPlan(msgspec.Struct, frozen=True):
    """Release the blocks of ``preempted``, let admitted rows take their cached blocks, then give
    new blocks and run ``chunks`` in their order. ``promoted`` rows stay so until they end."""

    chunks: tuple[Chunk, ...]
    preempted: tuple[str, ...]
    promoted: tuple[str, ...] = ()
    has_yielded: bool = False
    """A row was preempted for another tenant of its class."""


def plan(state: State) -> StepPlan:
    """Return the next step. It is empty only when there are no rows."""
    promoted = _promotions(state)
    step = _Step(state, promoted)
    for row in sorted(step.rows, key=step.order):
        if row.id in step.decoding_ids:
            _plan_decode(step, row)
        else:
            _plan_prefill(step, row)
    _add_drafts(step)
    chunks = [chunk for chunk in step.chunks.values() if chunk.num_tokens <= 1]
    chunks += [chunk for chunk in step.chunks.values() if chunk.num_tokens > 1]
    promotions = tuple(sorted(promoted))
    return StepPlan(tuple(chunks), tuple(step.preempted), promotions, step.has_yielded)


def _promotions(state: State) -> set[str]:
    """Choose the best row of each class that was held back too long, if none of it is promoted."""
    promoted = set()
    for priority, held_back in enumerate(state.held_back_tokens):
        if held_back < state.ageing_tokens:
            continue
        rows = (*state.running, *state.waiting)
        own = [row for row in rows if row.priority == priority]
        if own and not any(row.is_promoted for row in own):
            promoted.add(min(own, key=lambda row: row.rank).id)
    return promoted


def _plan_decode(step: _Step, row: Row) -> None:
    if row.id not in step.alive or step.tokens_left < 1:
        return
    if row.rank_class >= LATENCY_CLASSES:
        # Who is left out keeps its blocks. It also holds back those behind it, though shorter.
        step.takes_decodes = step.takes_decodes and step.has_time_for(row)
        if not step.takes_decodes:
            return
    num_new_blocks = step.num_missing_blocks(row, row.num_tokens)
    while num_new_blocks > step.free_blocks and row.id in step.alive:
        step.preempt(max(step.alive.values(), key=lambda row: row.rank))
        step.is_short_of_blocks = True
    if row.id in step.alive:
        step.schedule(row, 1, num_new_blocks, step.decode_s(row))


def _plan_prefill(step: _Step, row: Row) -> None:
    is_waiting = row.id in step.waiting_ids
    if not is_waiting and row.id not in step.alive:
        return
    if row.wants_all_logits and step.logits_left < 1:
        return  # the next step has room for more of them; others may go on
    num_tokens = _chunk_tokens(step, row)
    step.takes_prefills = step.takes_prefills and num_tokens > 0
    if not step.takes_prefills:
        return
    num_new_blocks = 0
    if is_waiting:
        # One block more than it needs now, so that it does not ask for one at once.
        num_new_blocks = step.num_missing_blocks(row, row.num_tokens + 1)
        # Who does not fit holds back those behind it, or it might wait for ever.
        step.admits = step.admits and not step.is_short_of_blocks
        step.admits = step.admits and _admit(step, row, num_new_blocks)
        if not step.admits:
            return
    seconds = step.state.cost.prefill_s(row.num_cached, num_tokens)
    step.schedule(row, num_tokens, num_new_blocks, seconds)
    step.has_prefill = True


def _chunk_tokens(step: _Step, row: Row) -> int:
    """Return how many tokens of a prompt the step has room for; 0: too few to be worth it."""
    wanted = min(row.num_left, step.logits_left) if row.wants_all_logits else row.num_left
    least = min(wanted, MIN_CHUNK_TOKENS)
    # Rows of a better class went before it: those that still wait for their token are worse.
    room = step.tokens_left - len(step.reserved)
    room = min(room, step.prefill_tokens_until(step.limit_s(row), row))
    if room >= least:
        return min(wanted, room)
    least = min(least, step.tokens_left)
    if not step.chunks and not step.reserved:
        return least
    if step.has_prefill or row.rank_class >= LATENCY_CLASSES:
        return 0
    last_s = min(step.state.itl_target_s, max(step.state.step_limit_s, step.limit_s(row)))
    return min(least, step.prefill_tokens_until(last_s, row))


def _admit(step: _Step, row: Row, num_new_blocks: int) -> bool:
    """Make room for a waiting row, if need be by preempting rows of a worse class."""
    has_room = num_new_blocks + step.num_idle(row) <= step.free_blocks
    if not has_room or len(step.alive) >= step.state.max_rows:
        # Only now look at who might go: what they would free takes long to count.
        victims = sorted(
            (other for other in step.alive.values() if step.gives_way(other, row)),
            key=lambda other: other.rank,
        )
        num_freed = step.num_freed(victims, but=row)
        fits_rows = len(step.alive) - len(victims) < step.state.max_rows
        if num_new_blocks + step.num_idle(row) > step.free_blocks + num_freed or not fits_rows:
            return False
        while (
            num_new_blocks + step.num_idle(row) > step.free_blocks
            or len(step.alive) >= step.state.max_rows
        ):
            victim = victims.pop()
            step.has_yielded |= victim.rank_class == row.rank_class
            step.preempt(victim)
        step.may_yield &= not step.has_yielded
    step.admit(row)
    return True


def _add_drafts(step: _Step) -> None:
    """Let drafts use what is left of tokens, time and blocks, the best row first."""
    rows = [row for row in step.alive.values() if row.num_drafts and row.id in step.chunks]
    for row in sorted(rows, key=lambda row: row.rank):
        if row.id not in step.decoding_ids:
            continue
        chunk, token_s = step.chunks[row.id], step.decode_s(row)
        held = len(row.blocks) + chunk.num_new_blocks + step.free_blocks
        most = min(row.num_drafts, step.tokens_left, held * step.state.block_size - row.num_tokens)
        while most > 0 and step.spent_s + most * token_s > step.limit_s(row):
            most -= 1
        if most > 0:
            num_blocks = step.num_missing_blocks(row, row.num_tokens + most) - chunk.num_new_blocks
            step.schedule(row, most, num_blocks, most * token_s)


class _Step:
    """The step under construction: who is alive, what is scheduled, what is left to give."""

    def __init__(self, state: State, promoted: set[str]) -> None:
        cost = state.cost
        self.state = state
        self.promoted = promoted
        self.chunks: dict[str, Chunk] = {}
        self.preempted: list[str] = []
        self.takes_decodes = True
        """Of the lower classes."""
        self.takes_prefills = True
        self.admits = True
        self.is_short_of_blocks = False
        """A decoding row had to preempt another: admit nobody else in this step."""
        self.has_prefill = False
        self.has_yielded = False
        self.rows = (*state.running, *state.waiting)
        if promoted:
            self.rows = tuple(
                replace(row, is_promoted=True) if row.id in promoted else row for row in self.rows
            )
        self.waiting_ids = {row.id for row in state.waiting}
        self.alive: dict[str, Row] = {row.id: row for row in self.rows[: len(state.running)]}
        self.decoding_ids = {
            row.id for row in self.alive.values() if row.num_tokens - row.num_cached == 1
        }
        self.reserved: dict[str, float] = {}
        """Time kept for the rows with an inter-token target; for each also a token."""
        self.furthest: dict[int, float] = {}
        """By class, the highest virtual time of a running row that is not promoted."""
        for row_id, row in self.alive.items():
            if row.is_promoted or row.priority < LATENCY_CLASSES:
                if row_id in self.decoding_ids:
                    self.reserved[row_id] = cost.decode_s(row.num_tokens)
                if row.is_promoted:
                    continue
            before = self.furthest.get(row.priority)
            if before is None or before < row.virtual_time:
                self.furthest[row.priority] = row.virtual_time
        self.free_blocks = state.free_blocks
        self.tokens_left = state.max_step_tokens
        self.logits_left = state.max_step_logits
        self.charged_s: dict[str, float] = {}
        self.may_yield = state.steps_since_yield >= YIELD_STEPS
        self.spent_s = state.spent_s + cost.step_s + sum(self.reserved.values())
        # Where a single token comes near the target, the target cannot be what counts.
        least_s = 2 * (cost.step_s + cost.decode_token_s)
        most_s, target_s = state.step_limit_s, state.itl_target_s
        shares = (STREAMING_SHARE, FILLING_SHARE) if self.reserved else (ARRIVAL_SHARE,) * 2
        self.limits_s = [max(least_s, min(share * target_s, most_s)) for share in shares]
        """Of the upper classes, and of the lower ones."""

    @cached_property
    def readers(self) -> Counter[int]:
        """How many of the rows that are alive hold each block."""
        return Counter(block for row in self.alive.values() for block in row.blocks)

    def order(self, row: Row) -> tuple[int, bool, bool, float, int]:
        """Who is planned first: by class, there decoding rows before prompts, then by rank."""
        is_promoted, virtual_time = row.is_promoted, row.virtual_time
        rank_class = 0 if is_promoted else row.priority
        goes_later = row.id not in self.decoding_ids
        if goes_later and rank_class >= LATENCY_CLASSES:
            # Not behind the decoding rows of the lower classes, which may fill a step, where their
            # tenants had far more.
            lead = self.furthest.get(rank_class, virtual_time) - virtual_time
            goes_later = lead <= self.state.tenant_lead
        return rank_class, goes_later, not is_promoted, virtual_time, row.arrival

    def gives_way(self, row: Row, other: Row) -> bool:
        """Whether a running row may be preempted to admit another."""
        if row.rank_class != other.rank_class:
            return row.rank_class > other.rank_class
        lead = row.virtual_time - other.virtual_time
        return self.may_yield and lead > self.state.tenant_lead and not row.is_promoted

    def decode_s(self, row: Row) -> float:
        return self.state.cost.decode_s(row.num_tokens)

    def has_time_for(self, row: Row) -> bool:
        """Whether one more decoding row fits in; the first one always does."""
        return not self.chunks or self.spent_s + self.decode_s(row) <= self.limit_s(row)

    def limit_s(self, row: Row) -> float:
        """Return how long the step may take with more tokens of a row."""
        return self.limits_s[row.rank_class >= LATENCY_CLASSES]

    def prefill_tokens_until(self, limit_s: float, row: Row) -> int:
        """How many tokens of a prompt may join for the step to end by ``limit_s``."""
        most = self.state.cost.prefill_tokens_within(row.num_cached, limit_s - self.spent_s)
        return int(min(most, row.num_left))

    def num_missing_blocks(self, row: Row, num_tokens: int) -> int:
        return max(0, -(-num_tokens // self.state.block_size) - len(row.blocks))

    def num_idle(self, row: Row) -> int:
        """Blocks of a waiting row that nobody holds, so that they count as free."""
        return sum(self.readers[block] == 0 for block in row.blocks) if row.blocks else 0

    def num_freed(self, victims: Sequence[Row], but: Row) -> int:
        """Blocks that would be free without ``victims``, those that ``but`` would take aside."""
        if not victims:
            return 0
        held = Counter(block for victim in victims for block in victim.blocks)
        kept = set(but.blocks)
        own = sum(self.readers[b] == count and b not in kept for b, count in held.items())
        return own + sum(self.chunks[v.id].num_new_blocks for v in victims if v.id in self.chunks)

    def admit(self, row: Row) -> None:
        if row.blocks:  # who brings none need not have the readers of all blocks counted
            self.free_blocks -= self.num_idle(row)
            self.readers.update(row.blocks)
        self.alive[row.id] = row

    def schedule(self, row: Row, num_tokens: int, num_new_blocks: int, seconds: float) -> None:
        """Compute (more) tokens of a row."""
        row_id, known = row.id, self.chunks.get(row.id)
        if known is None:
            self.chunks[row_id] = Chunk(row_id, num_tokens, num_new_blocks)
        else:
            num_blocks = known.num_new_blocks + num_new_blocks
            self.chunks[row_id] = Chunk(row_id, known.num_tokens + num_tokens, num_blocks)
        self.free_blocks -= num_new_blocks
        self.tokens_left -= num_tokens
        if row.wants_all_logits:
            self.logits_left -= num_tokens
        self.spent_s += seconds - self.reserved.pop(row_id, 0.0)
        self.charged_s[row_id] = self.charged_s.get(row_id, 0.0) + seconds

    def preempt(self, row: Row) -> None:
        for block in row.blocks:
            self.readers[block] -= 1
            self.free_blocks += self.readers[block] == 0
        if chunk := self.chunks.pop(row.id, None):
            self.free_blocks += chunk.num_new_blocks
            self.tokens_left += chunk.num_tokens
            self.logits_left += chunk.num_tokens if row.wants_all_logits else 0
        self.spent_s -= self.reserved.pop(row.id, 0.0) + self.charged_s.pop(row.id, 0.0)
        del self.alive[row.id]
        self.preempted.append(row.id)
