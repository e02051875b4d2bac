"""The sequences of one engine and where they lie in the cache; carries out the batcher's plans.

It knows nothing of how numbers are computed or tokens picked.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec import structs

from llmos.engines.base import Urgency
from llmos.engines.native import batcher
from llmos.engines.native.attention import RowChunk
from llmos.engines.native.blocks import BlockPool, next_key, root_key
from llmos.engines.native.runner import Runner
from llmos.engines.native.sampler import SampledRow
from llmos.engines.native.waiting import Waiting
from llmos.types import (
    EngineStats,
    FinishReason,
    GenerateWork,
    Priority,
    TokenPiece,
    TokensOut,
)

if TYPE_CHECKING:
    from llmos.engines.native.grammar import GrammarState

FIRST_TOKEN_TARGETS = 2.5
"""First tokens of the upper classes are due after so many inter-token targets."""


@dataclass(slots=True)
class Sequence:
    """One GenerateWork under way: its tokens so far, and how many of them are in the cache."""

    id: str
    work: GenerateWork
    arrival: int
    submitted_s: float
    root: bytes
    """Key of its prefix cache before the first block."""
    grammar: GrammarState | None = None
    token_ids: list[int] = field(init=False)
    num_cached: int = 0
    blocks: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    """Of its leading full blocks, as far as they were needed."""
    num_published: int = 0
    is_proven: bool = False
    """Its logits, which come of all that it has in the cache, were finite."""
    is_promoted: bool = False
    drafts: list[int] = field(default_factory=list)
    """Tokens guessed for the next step."""
    num_found: int | None = None
    """Prompt tokens found in the prefix cache, once that was asked."""
    has_reported: bool = False
    last_token_s: float | None = None
    prompt_pieces: list[TokenPiece] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids = [*self.work.prompt_ids, *self.work.generated_ids]

    @property
    def num_prompt(self) -> int:
        return len(self.work.prompt_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def wants_prompt(self) -> bool:
        """Whether log-probabilities of the prompt are still to be computed."""
        is_asked = self.work.prompt_logprobs is not None and not self.work.generated_ids
        return is_asked and len(self.prompt_pieces) < self.num_prompt - 1

    @property
    def deadline(self) -> float:
        """When the sequence fails if it has not ended."""
        seconds = self.work.deadline_s
        return math.inf if seconds is None else self.submitted_s + seconds

    def due(self, itl_target_s: float) -> float:
        """Return when its next token, or its end, is due."""
        if self.work.priority >= batcher.LATENCY_CLASSES:
            return self.deadline
        if self.last_token_s is not None:
            return min(self.deadline, self.last_token_s + itl_target_s)
        return min(self.deadline, self.submitted_s + FIRST_TOKEN_TARGETS * itl_target_s)

    @property
    def is_streaming(self) -> bool:
        """Whether somebody sees its tokens come: of the upper classes, and no longer waiting."""
        is_upper = self.work.priority < batcher.LATENCY_CLASSES
        return is_upper and bool(self.blocks) and self.last_token_s is not None

    def row(self, virtual_time: float) -> batcher.Row:
        """Return the sequence as the batcher sees it (its cached blocks, while it waits, aside)."""
        return batcher.Row(
            id=self.id,
            priority=self.work.priority,
            arrival=self.arrival,
            num_tokens=len(self.token_ids),
            num_cached=self.num_cached,
            blocks=self.blocks,
            virtual_time=virtual_time,
            num_drafts=len(self.drafts),
            wants_all_logits=self.wants_prompt,
            is_promoted=self.is_promoted,
        )

    def sampled_rows(self) -> list[SampledRow]:
        """Return what sampling needs for the next token and for the one after each draft."""
        work, ids = self.work, self.token_ids
        return [
            SampledRow(
                work.sampling,
                work.choice,
                [*ids, *self.drafts[:count]] if count else ids,
                self.num_prompt,
                self.grammar,
            )
            for count in range(len(self.drafts) + 1)
        ]

    def report(self, pieces: tuple[TokenPiece, ...], reason: FinishReason | None) -> TokensOut:
        """Return what to say of new tokens, and once what is known of the prompt."""
        if self.has_reported:
            return TokensOut(pieces, reason)
        self.has_reported = True
        return TokensOut(pieces, reason, tuple(self.prompt_pieces), self.num_found or 0)


class Sequences:
    """All sequences of an engine, the block pool they share, and counts of what became of them.

    Args:
        model: the digest of what they are of.
        itl_target_s: time from token to token that the upper classes should see at most.
    """

    def __init__(
        self,
        runner: Runner,
        num_blocks: int,
        block_size: int,
        model: str,
        itl_target_s: float = math.inf,
    ) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.held_back_tokens = [0] * len(Priority)
        self.steps_since_yield = 0
        self.preemptions = [0] * len(Priority)
        self.prefix_query_tokens = 0
        self.prefix_hit_tokens = 0
        self._runner = runner
        self._model = model
        self._itl_target_s = itl_target_s
        self._by_id: dict[str, Sequence] = {}
        self._active: dict[str, Sequence] = {}
        self._waiting = Waiting(itl_target_s)
        self._num_arrived = 0

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._by_id.values())

    def __getitem__(self, sequence_id: str) -> Sequence:
        return self._by_id[sequence_id]

    def get(self, sequence_id: str) -> Sequence | None:
        return self._by_id.get(sequence_id)

    @property
    def active(self) -> Collection[Sequence]:
        """Those that hold blocks; the others wait."""
        return self._active.values()

    def add(
        self, sequence_id: str, work: GenerateWork, now: float, grammar: GrammarState | None = None
    ) -> Sequence:
        """Queue a sequence."""
        root = root_key(self._model, work.adapter, work.cache_salt)
        sequence = Sequence(sequence_id, work, self._num_arrived, now, root, grammar)
        self._by_id[sequence_id] = sequence
        self._waiting.add(sequence)
        self._num_arrived += 1
        return sequence

    def remove(self, sequence: Sequence, *, is_poisoned: bool = False) -> None:
        """Drop a sequence and give its blocks back; poisoned ones are found by nobody any more."""
        del self._by_id[sequence.id]
        if self._active.pop(sequence.id, None) is None:
            self._waiting.remove(sequence)
        else:
            self._release(sequence, is_poisoned=is_poisoned)

    # -- what the batcher asks -------------------------------------------------------------------

    def running(self, virtual_times: Mapping[str, float]) -> tuple[batcher.Row, ...]:
        """Return the rows that hold blocks."""
        return tuple(_row(sequence, virtual_times) for sequence in self.active)

    def waiting(
        self, virtual_times: Mapping[str, float], max_per_class: int
    ) -> tuple[batcher.Row, ...]:
        """Return the best waiting rows of each class, with what the cache has of their tokens."""
        return tuple(
            self._with_cached_blocks(_row(sequence, virtual_times))
            for sequence in self._waiting.best(virtual_times, max_per_class)
        )

    def _with_cached_blocks(self, row: batcher.Row) -> batcher.Row:
        if not self._runner.is_paged or row.wants_all_logits:
            return row
        sequence = self[row.id]
        # The last token is computed in any case: the next one comes of its logits.
        most = (len(sequence.token_ids) - 1) // self.block_size
        blocks = self.pool.find(self._key(sequence, index) for index in range(most))
        if not blocks:
            return row
        return structs.replace(row, blocks=blocks, num_cached=len(blocks) * self.block_size)

    def _key(self, sequence: Sequence, index: int) -> bytes:
        """Return the key of the sequence's full block ``index``."""
        keys, size = sequence.keys, self.block_size
        while len(keys) <= index:
            first = len(keys) * size
            previous = keys[-1] if keys else sequence.root
            keys.append(next_key(previous, sequence.token_ids[first : first + size]))
        return keys[index]

    # -- what the host asks ----------------------------------------------------------------------

    def urgency(self, now: float) -> Urgency:
        """Return how soon a token or an answer is due, and for whom; there must be sequences."""
        priorities = {sequence.work.priority for sequence in self.active}
        best = min(priorities.union(self._waiting.counts()))
        tenants = {s.work.tenant for s in self.active if s.work.priority == best}
        streams = [s.due(self._itl_target_s) for s in self.active if s.is_streaming]
        due = min((s.due(self._itl_target_s) for s in self.active), default=math.inf)
        return Urgency(
            min(due, self._waiting.due) - now,
            best,
            tuple(tenants.union(self._waiting.tenants(best))),
            stream_slack_s=min(streams, default=math.inf) - now,
            step_limit_s=batcher.FILLING_SHARE * self._itl_target_s if streams else math.inf,
        )

    def expired(self, now: float) -> list[Sequence]:
        """Return those whose deadline has passed."""
        active = (sequence for sequence in self.active if sequence.deadline <= now)
        return [*active, *self._waiting.expired(now)]

    def stats(self) -> EngineStats:
        """Return counts of rows, blocks and preemptions."""
        return EngineStats(
            running=_per_class(Counter(sequence.work.priority for sequence in self.active)),
            waiting=_per_class(Counter(self._waiting.counts())),
            preemptions=_per_class(self.preemptions),
            kv_used_blocks=self.pool.num_blocks - self.pool.num_free,
            kv_blocks=self.pool.num_blocks,
            prefix_query_tokens=self.prefix_query_tokens,
            prefix_hit_tokens=self.prefix_hit_tokens,
        )

    # -- carrying out a plan ---------------------------------------------------------------------

    def place(
        self, state: batcher.State, plan: batcher.StepPlan
    ) -> list[tuple[Sequence, RowChunk]]:
        """Take and give the blocks that ``plan`` (of ``state``) says; return what to compute."""
        for row_id in plan.promoted:
            if sequence := self._active.get(row_id):
                sequence.is_promoted = True
            else:
                self._waiting.promote(self[row_id])
        for row_id in plan.preempted:
            sequence = self._active.pop(row_id)
            self.preemptions[sequence.work.priority] += 1
            self._release(sequence)
            self._waiting.add(sequence)
        waiting = {row.id: row for row in state.waiting}
        for chunk in plan.chunks:  # before any block is given out, for none of these to be it
            if row := waiting.get(chunk.id):
                self._admit(self[chunk.id], row)
        self._count_held_back(plan)
        self.steps_since_yield = 0 if plan.has_yielded else self.steps_since_yield + 1
        return [(self[chunk.id], self._chunk(chunk)) for chunk in plan.chunks]

    def _admit(self, sequence: Sequence, row: batcher.Row) -> None:
        self._waiting.remove(sequence)
        self._active[sequence.id] = sequence
        self.pool.hold(row.blocks)
        sequence.blocks = list(row.blocks)
        sequence.num_cached = row.num_cached
        sequence.num_published = len(row.blocks)
        sequence.is_proven = False
        if sequence.num_found is None:
            sequence.num_found = min(row.num_cached, sequence.num_prompt)
            if not row.wants_all_logits:
                self.prefix_query_tokens += sequence.num_prompt
                self.prefix_hit_tokens += sequence.num_found

    def _chunk(self, chunk: batcher.Chunk) -> RowChunk:
        sequence = self[chunk.id]
        fresh = self.pool.allocate(chunk.num_new_blocks)
        suspects = self.pool.take_suspects(fresh)
        if suspects and self._runner.is_paged:
            self._runner.forget(sequence.id, suspects, clear=True)
        sequence.blocks += fresh
        start, num_known = sequence.num_cached, len(sequence.token_ids)
        end = start + chunk.num_tokens
        sequence.drafts = sequence.drafts[: max(0, end - num_known)]
        num_logits = self._num_logits(sequence, end)
        assert num_logits <= chunk.num_tokens or not self._runner.is_paged
        return RowChunk(
            id=sequence.id,
            token_ids=[*sequence.token_ids[start:end], *sequence.drafts],
            start=start,
            blocks=sequence.blocks,
            num_logits=num_logits,
            adapter=sequence.work.adapter,
        )

    def _num_logits(self, sequence: Sequence, end: int) -> int:
        """Return after how many of the last tokens before ``end`` logits are wanted."""
        num_known = len(sequence.token_ids)
        if not sequence.wants_prompt:
            return max(0, end - num_known + 1)
        if end < num_known and not self._runner.is_paged:
            return 0  # without blocks a prompt is computed at once, with its last chunk
        # Where it was preempted, what it computes again was scored before.
        return max(0, end - len(sequence.prompt_pieces))

    def advance(self, placed: Listing[tuple[Sequence, RowChunk]]) -> None:
        """Note that the chunks were computed: only what was may be published."""
        for sequence, chunk in placed:
            sequence.num_cached = min(chunk.end, len(sequence.token_ids))

    def doubt(self, placed: Listing[tuple[Sequence, RowChunk]]) -> None:
        """Note that computing the chunks failed: nobody knows what is in their blocks now."""
        for sequence, _ in placed:
            sequence.is_proven = False

    def _count_held_back(self, plan: batcher.StepPlan) -> None:
        """Count, for each class that has rows, how much went by since it last had a part."""
        num_tokens = sum(chunk.num_tokens for chunk in plan.chunks)
        served = {self[chunk.id].work.priority for chunk in plan.chunks}
        present = {s.work.priority for s in self.active}.union(self._waiting.counts())
        for priority in Priority:
            is_held_back = priority in present and priority not in served
            before = self.held_back_tokens[priority]
            self.held_back_tokens[priority] = before + num_tokens if is_held_back else 0

    def publish(self, sequence: Sequence) -> None:
        """Let other rows find the blocks that the sequence has filled."""
        if not self._runner.is_paged:
            return
        num_full = sequence.num_cached // self.block_size
        for index in range(sequence.num_published, num_full):
            self.pool.publish(sequence.blocks[index], self._key(sequence, index))
        sequence.num_published = max(sequence.num_published, num_full)

    def _release(self, sequence: Sequence, *, is_poisoned: bool = False) -> None:
        """Take a sequence out of the cache; if it stays, it is computed again from what is found.

        What was not yet proven finite is published too, or a long prompt would start from nothing
        each time it gives way. Whoever takes it up finds out, and takes it back.
        """
        if is_poisoned:
            self.pool.retract(sequence.blocks)
        else:
            self.publish(sequence)
        self._runner.forget(sequence.id, sequence.blocks, clear=False)
        self.pool.release(sequence.blocks, is_proven=sequence.is_proven and not is_poisoned)
        sequence.blocks = []
        sequence.drafts = []
        sequence.num_cached = sequence.num_published = 0


def _row(sequence: Sequence, virtual_times: Mapping[str, float]) -> batcher.Row:
    return sequence.row(virtual_times.get(sequence.work.tenant, 0.0))


def _per_class(counts: Mapping[int, int] | Listing[int]) -> tuple[int, int, int, int]:
    interactive, standard, batch, background = (counts[priority] for priority in Priority)
    return interactive, standard, batch, background
