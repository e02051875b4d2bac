"""One model of a simulated device: the batcher's real plans over rows that are only counted.

What `engines.native.sequences` does with blocks and tokens this does with numbers of them. A run of
steps in which the same rows decode is taken at once: `most_steps` says how far the plan, which is a
pure function, cannot change. Nothing is found in a prefix cache, since traces have no words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmos.engines.base import MAX_STEP_TOKENS
from llmos.engines.native import batcher
from llmos.engines.native.batcher import Row, StepPlan
from llmos.simulate.clock import PS_PER_S
from llmos.simulate.sequences import Sequence, Waiting
from llmos.simulate.steptimes import StepTimes

BLOCK_TOKENS = 16
MAX_ROWS = 64
ITL_TARGET_S = 0.2
AGEING_TOKENS = 8192
TENANT_LEAD_PS = float(PS_PER_S)
"""As of `engines.native.engine`, which cannot be imported without torch; a test compares them."""
NO_END = 2**31
"""More steps than any run has."""
OFFERED_ROWS = 4
"""Waiting rows of a class that a plan is asked about at first; more only where it admits all."""


@dataclass(slots=True)
class Step:
    """What an engine computes next, and how often it would do just that again. Picoseconds."""

    chunks: list[tuple[Sequence, int, int]]
    """Rows, how many tokens of each, and what those add to the step."""
    first_ps: int
    held_back: tuple[int, ...]
    """Classes that had rows and no part in it."""
    is_steady: bool
    """Whether all it does is one more token for rows that decode."""
    growth_ps: int = 0
    """How much longer each repetition takes than the one before it."""
    most_steps: int = 1
    charged_ps: dict[str, int] = field(default_factory=dict)
    """By tenant, once it is finished: what its rows took."""
    tenants: dict[str, list[int]] | None = None
    """Of a step that was not planned, as it can only be the one before it again: the number of
    rows, and of their tokens, of each tenant."""


class SimulatedEngine:
    """A loaded model: rows in, steps out.

    Args:
        num_blocks: of the KV cache.
        plans_all: plan each step by itself, though it is known to be as the last one.
    """

    def __init__(self, times: StepTimes, num_blocks: int, *, plans_all: bool = False) -> None:
        self.times = times
        self.free_blocks = num_blocks
        self.running: dict[str, Sequence] = {}
        self.waiting = Waiting()
        self.held_back_tokens = [0] * batcher.NUM_CLASSES
        self.steps_since_yield = 0
        self.pending_tokens = [0] * batcher.NUM_CLASSES
        """By class: tokens to be computed, one for each row that decodes."""
        self.num_rows = [0] * batcher.NUM_CLASSES
        """By class: sequences that have not ended."""
        self.num_streams = 0
        """Rows that are being answered and have an inter-token target."""
        self.num_plans = 0
        self.num_preempted = 0
        self._by_id: dict[str, Sequence] = {}
        self._cost = times.cost
        self._plans_all = plans_all
        self._standing: Step | None = None
        """What the next step is, while all rows decode and no other comes."""
        self._standing_limit_s = 0.0
        self._owed: list[tuple[Sequence, int, int]] = []
        self._owed_steps = 0
        """So many steps were computed for those, and are still to be noted."""
        self._owed_ps = 0

    @property
    def has_work(self) -> bool:
        return bool(self._by_id)

    @property
    def is_urgent(self) -> bool:
        """Whether there is work of the upper classes."""
        return any(self.num_rows[: batcher.LATENCY_CLASSES])

    @property
    def best_class(self) -> int:
        """The best class that there is work for; there must be some."""
        return next(priority for priority, count in enumerate(self.num_rows) if count)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it joins the batch at a next step."""
        self._by_id[sequence.id] = sequence
        self.waiting.add(sequence)
        self.num_rows[sequence.priority] += 1
        self.pending_tokens[sequence.priority] += sequence.num_tokens
        self._standing = None

    # -- a step ----------------------------------------------------------------------------------

    def begin(self, virtual_times: Mapping[str, float], step_limit_s: float) -> Step:
        """Plan the next step and give out its blocks; there must be work."""
        if self._standing is not None and self._standing_limit_s == step_limit_s:
            return self._standing
        self._standing_limit_s = step_limit_s
        self._note_owed()
        offered = OFFERED_ROWS
        while True:
            state = self._state(virtual_times, step_limit_s, offered)
            plan = batcher.plan(state)
            self.num_plans += 1
            if len(state.waiting) == len(self.waiting):
                break
            # Who was not asked about comes after those who were: nothing else can be missing.
            if sum(one.id not in self.running for one in plan.chunks) < offered:
                break
            offered *= 4
        step = self._place(plan)
        if step.is_steady:
            step.growth_ps = self.times.decode_growth_ps * len(step.chunks)
            step.most_steps = self._most_steps(step, state)
        return step

    def _state(
        self, virtual_times: Mapping[str, float], step_limit_s: float, offered: int
    ) -> batcher.State:
        waiting = self.waiting.best(virtual_times, offered) if self.waiting else ()
        return batcher.State(
            running=tuple(_row(one, virtual_times) for one in self.running.values()),
            waiting=tuple(_row(one, virtual_times) for one in waiting),
            free_blocks=self.free_blocks,
            block_size=BLOCK_TOKENS,
            max_step_tokens=MAX_STEP_TOKENS,
            max_rows=MAX_ROWS,
            cost=self._cost,
            itl_target_s=ITL_TARGET_S,
            step_limit_s=step_limit_s,
            tenant_lead=TENANT_LEAD_PS,
            steps_since_yield=self.steps_since_yield,
            held_back_tokens=tuple(self.held_back_tokens),
            ageing_tokens=AGEING_TOKENS,
        )

    def _decodes(self, sequence: Sequence) -> bool:
        return sequence.first_ps >= 0 and sequence.num_tokens - sequence.num_cached == 1

    def _place(self, plan: StepPlan) -> Step:
        """Carry out a plan; return what is to be computed."""
        for row_id in plan.promoted:
            self._promote(self._by_id[row_id])
        for row_id in plan.preempted:
            self._preempt(self.running.pop(row_id))
        is_steady = not (plan.promoted or plan.preempted)
        times, length_ps, served = self.times, self.times.step_ps, set()
        chunks = []
        for chunk in plan.chunks:
            sequence = self._by_id[chunk.id]
            if chunk.id not in self.running:
                self.waiting.remove(sequence)
                self.running[chunk.id] = sequence
                self.num_streams += _is_stream(sequence)
                is_steady = False
            if sequence.num_tokens - sequence.num_cached == 1:
                took_ps = times.decode(sequence.num_tokens)
                is_steady &= sequence.first_ps >= 0
            else:
                took_ps = times.prefill(sequence.num_cached, chunk.num_tokens)
                is_steady = False
            sequence.num_blocks += chunk.num_new_blocks
            self.free_blocks -= chunk.num_new_blocks
            length_ps += took_ps
            served.add(sequence.priority)
            chunks.append((sequence, chunk.num_tokens, took_ps))
        assert self.free_blocks >= 0, "the batcher gave out blocks that there are not"
        if plan.has_yielded:
            self.steps_since_yield = -1  # this step counts for none
        held_back = (p for p, count in enumerate(self.num_rows) if count and p not in served)
        return Step(chunks, length_ps, tuple(held_back), is_steady)

    def _promote(self, sequence: Sequence) -> None:
        if sequence.id in self.running:
            sequence.is_promoted = True
            return
        self.waiting.remove(sequence)
        sequence.is_promoted = True
        self.waiting.add(sequence)

    def _preempt(self, sequence: Sequence) -> None:
        """Take a row out of the cache: what it had computed is to be computed again."""
        self.num_streams -= _is_stream(sequence)
        self.free_blocks += sequence.num_blocks
        self.pending_tokens[sequence.priority] += sequence.num_cached
        sequence.num_blocks = sequence.num_cached = 0
        self.waiting.add(sequence)
        self.num_preempted += 1

    # -- a run of steps --------------------------------------------------------------------------

    def _most_steps(self, step: Step, state: batcher.State) -> int:
        """Return how many steps in a row are planned as this one was, if nothing else happens.

        While rows decode, steps only get longer and blocks fewer, so who was left out or not
        admitted stays so. What may change the plan: a row comes to its end, blocks run short, a row
        of a lower class runs out of time, rows may yield again, a class has been held back enough.
        """
        chunks = step.chunks
        most = min(one.end_tokens - one.num_tokens for one, _, _ in chunks)
        if any(one.priority >= batcher.LATENCY_CLASSES for one, _, _ in chunks):
            most = min(most, self._steps_in_time(step, state))
        if self.waiting and state.steps_since_yield < batcher.YIELD_STEPS:
            most = min(most, batcher.YIELD_STEPS - state.steps_since_yield)
        for held_back in step.held_back:
            left = AGEING_TOKENS - self.held_back_tokens[held_back]
            if left > 0:
                most = min(most, -(-left // len(chunks)))
        return self._steps_in_blocks(step, max(1, most))

    def _steps_in_time(self, step: Step, state: batcher.State) -> int:
        """Return for how many steps rows of the lower classes surely have their time."""
        share = batcher.ARRIVAL_SHARE
        if any(_has_target(one) and self._decodes(one) for one in self.running.values()):
            share = batcher.FILLING_SHARE
        cost = self._cost
        limit_s = min(share * ITL_TARGET_S, state.step_limit_s)
        limit_s = max(limit_s, 2 * (cost.step_s + cost.decode_token_s))
        first_s = cost.step_s + sum(cost.decode_s(one.num_tokens) for one, _, _ in step.chunks)
        growth_s = len(step.chunks) * cost.key_s
        return int(min((limit_s - first_s) / growth_s, NO_END)) if growth_s else NO_END

    def _steps_in_blocks(self, step: Step, most: int) -> int:
        """Return for how many steps, ``most`` at most, there are blocks for all rows."""
        if len(step.chunks) * (most // BLOCK_TOKENS + 1) <= self.free_blocks:
            return most
        fewest = 1
        while fewest < most:
            middle = (fewest + most + 1) // 2
            if sum(_more_blocks(one, middle) for one, _, _ in step.chunks) <= self.free_blocks:
                fewest = middle
            else:
                most = middle - 1
        return fewest

    def finish(self, step: Step, num_steps: int, first_ps: int, last_ps: int) -> list[Sequence]:
        """Note that a step was computed, ``num_steps`` times; return the sequences that ended.

        Args:
            first_ps: when the first of the steps ended.
            last_ps: when the last one did.
        """
        if step.tenants is not None and num_steps < step.most_steps and not self.waiting:
            self._owe(step, step.tenants, num_steps, last_ps)
            return []
        self._note_owed()
        charged: dict[str, int] = {}
        step.charged_ps = charged
        ended = []
        for sequence, num_tokens, took_ps in step.chunks:
            num_known = sequence.num_tokens
            if step.is_steady:
                if num_steps > 1 or step.tenants is not None:
                    took_ps = self.times.decode(num_known, num_steps)
                self._decode(sequence, num_steps)
            else:
                self._advance(sequence, num_tokens)
            charged[sequence.tenant] = charged.get(sequence.tenant, 0) + took_ps
            if sequence.num_tokens > num_known:
                sequence.last_ps = last_ps
                if sequence.first_ps < 0:
                    sequence.first_ps = first_ps
                    self.num_streams += _is_stream(sequence)
                if sequence.num_tokens >= sequence.end_tokens:
                    ended.append(sequence)
        self._count_held_back(step, num_steps)
        for sequence in ended:
            self._remove(sequence)
        self._standing = None if self._plans_all else self._after(step, num_steps)
        return ended

    def _after(self, step: Step, num_steps: int) -> Step | None:
        """Return the next step where it can only be the same again: then the order of the rows, so
        their tenants' times too, means nothing to the plan."""
        takes_all = len(step.chunks) == len(self.running) and not self.waiting
        if not takes_all or step.most_steps <= num_steps:
            return None
        tenants: dict[str, list[int]] = {}
        for sequence, _, _ in step.chunks:
            sums = tenants.setdefault(sequence.tenant, [0, 0])
            sums[0] += 1
            sums[1] += sequence.num_tokens
        first_ps = step.first_ps + num_steps * step.growth_ps
        left = step.most_steps - num_steps
        return Step(step.chunks, first_ps, (), True, step.growth_ps, left, tenants=tenants)

    def _owe(self, step: Step, tenants: dict[str, list[int]], num_steps: int, last_ps: int) -> None:
        """Charge the tenants for steps in which no row ends, and leave the rows for later: where
        another model's prompt is computed between any two steps, that is most of the work. What is
        left of the step is the next one."""
        for tenant, sums in tenants.items():
            num_rows, num_tokens = sums
            step.charged_ps[tenant] = self.times.decode_all(num_rows, num_tokens, num_steps)
            sums[1] = num_tokens + num_rows * num_steps
        self._owed = step.chunks
        self._owed_steps += num_steps
        self._owed_ps = last_ps
        self.steps_since_yield += num_steps
        step.first_ps += num_steps * step.growth_ps
        step.most_steps -= num_steps
        self._standing = step

    def _note_owed(self) -> None:
        if self._owed_steps:
            for sequence, _, _ in self._owed:
                self._decode(sequence, self._owed_steps)
                sequence.last_ps = self._owed_ps
            self._owed_steps = 0

    def _decode(self, sequence: Sequence, num_steps: int) -> None:
        num_new_blocks = _more_blocks(sequence, num_steps)
        sequence.num_blocks += num_new_blocks
        self.free_blocks -= num_new_blocks
        sequence.num_tokens += num_steps
        sequence.num_cached += num_steps

    def _advance(self, sequence: Sequence, num_tokens: int) -> None:
        """Compute tokens of a row, and its next one where they were the last that were known."""
        sequence.num_cached += num_tokens
        self.pending_tokens[sequence.priority] -= num_tokens
        if sequence.num_cached == sequence.num_tokens:
            sequence.num_tokens += 1
            self.pending_tokens[sequence.priority] += 1

    def _count_held_back(self, step: Step, num_steps: int) -> None:
        counts = [0] * batcher.NUM_CLASSES
        if step.held_back:
            num_tokens = num_steps * sum(num_tokens for _, num_tokens, _ in step.chunks)
            for priority in step.held_back:
                counts[priority] = self.held_back_tokens[priority] + num_tokens
        self.held_back_tokens = counts
        self.steps_since_yield += num_steps

    def _remove(self, sequence: Sequence) -> None:
        del self.running[sequence.id], self._by_id[sequence.id]
        self.free_blocks += sequence.num_blocks
        self.num_streams -= _is_stream(sequence)
        self.num_rows[sequence.priority] -= 1
        self.pending_tokens[sequence.priority] -= sequence.num_tokens - sequence.num_cached


def _is_stream(sequence: Sequence) -> bool:
    return sequence.first_ps >= 0 and sequence.priority < batcher.LATENCY_CLASSES


def _has_target(sequence: Sequence) -> bool:
    return sequence.is_promoted or sequence.priority < batcher.LATENCY_CLASSES


def _more_blocks(sequence: Sequence, num_steps: int) -> int:
    """Return what a row that decodes is short of to do so ``num_steps`` times."""
    num_cached = sequence.num_cached + num_steps
    return max(0, -(-num_cached // BLOCK_TOKENS) - sequence.num_blocks)


def _row(sequence: Sequence, virtual_times: Mapping[str, float]) -> Row:
    return Row(
        sequence.id,
        sequence.priority,
        sequence.request.number,
        sequence.num_tokens,
        sequence.num_cached,
        range(sequence.first_block, sequence.first_block + sequence.num_blocks),
        virtual_times.get(sequence.tenant, 0.0),
        0,
        False,
        sequence.is_promoted,
    )
