"""A small model that guesses what the served one will say, for speculative decoding.

It has the same vocabulary and a KV cache of its own, and samples with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass, field, replace

import msgspec

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.blocks import BlockPool
from llmos.engines.native.runner import Runner
from llmos.engines.native.sampler import SampledRow, sample
from llmos.engines.native.sequences import Sequence

CATCH_UP_TOKENS = 256
"""Tokens it reads in one step, of sequences that it does not know yet."""


@dataclass(slots=True)
class _Held:
    """What the cache holds of a sequence: the numbers of ``token_ids``, in ``blocks``."""

    token_ids: list[int] = field(default_factory=list)
    blocks: list[int] = field(default_factory=list)
    num_sure: int = 0
    """Of the tokens, those that were no guesses."""

    def keep_common(self, token_ids: Listing[int]) -> None:
        """Forget what differs from ``token_ids``, and their last, which is computed again."""
        most = min(len(self.token_ids), len(token_ids) - 1)
        common = min(self.num_sure, most)
        while common < most and self.token_ids[common] == token_ids[common]:
            common += 1
        del self.token_ids[common:]
        self.num_sure = common


class DraftModel:
    """Guesses by a small model (see ``speculation.Drafter``).

    Args:
        runner: of the small model; it must be paged.
        max_tokens: of a sequence; for a longer one it guesses nothing.
    """

    def __init__(self, runner: Runner, num_blocks: int, block_size: int, max_tokens: int) -> None:
        runner.allocate(num_blocks, block_size)
        self._max_tokens = max_tokens
        self._runner = runner
        self._pool = BlockPool(num_blocks)
        self._block_size = block_size
        self._held: dict[str, _Held] = {}

    def begin(self) -> None:
        """A step begins; there is nothing to do."""

    def kind(self, sequence: Sequence) -> int | None:
        """Its guesses are all of one kind."""
        return 0

    def draft(self, sequences: Listing[Sequence], counts: Listing[int]) -> list[list[int]]:
        """Return the guesses; none for a sequence that is still to be read, or has no room."""
        guesses: dict[str, list[int]] = {sequence.id: [] for sequence in sequences}
        most = {s.id: count for s, count in zip(sequences, counts, strict=True)}
        rows = self._read(sequences, most)
        while rows:
            rows = self._extend(rows, guesses)
            rows = [row for row in rows if len(guesses[row.id]) < most[row.id]]
        return [guesses[sequence.id] for sequence in sequences]

    def forget(self, sequence_id: str) -> None:
        """A sequence has ended: free its blocks."""
        if held := self._held.pop(sequence_id, None):
            self._runner.forget(sequence_id, held.blocks, clear=False)
            self._pool.release(held.blocks)

    def _read(self, sequences: Listing[Sequence], most: dict[str, int]) -> list[Sequence]:
        """Compute tokens not seen yet; return the sequences that are read all but to the end."""
        budget_tokens, chunks, ready = CATCH_UP_TOKENS, [], []
        for sequence in sequences:
            held = self._held.setdefault(sequence.id, _Held())
            held.keep_common(sequence.token_ids)
            num_tokens = len(sequence.token_ids) + most[sequence.id]
            if num_tokens > self._max_tokens or not self._make_room(held, num_tokens):
                continue
            # The last token is left for the first guess, with those few that may come before it.
            unread = sequence.token_ids[len(held.token_ids) :]
            if len(unread) <= budget_tokens:
                ready.append(sequence)
            elif budget_tokens:
                unread = unread[:budget_tokens]
                chunks.append(self._chunk(sequence, held, unread, num_logits=0))
            budget_tokens = max(0, budget_tokens - len(unread))
        if chunks:
            self._runner.run(chunks)
        return ready

    def _extend(self, rows: list[Sequence], guesses: dict[str, list[int]]) -> list[Sequence]:
        """Add a guess for each row; return the rows it could be done for."""
        chunks, sampled = [], []
        # Single tokens first, so that they are computed together.
        rows.sort(key=lambda row: len(row.token_ids) - len(self._held[row.id].token_ids) > 1)
        for row in rows:
            held, token_ids = self._held[row.id], [*row.token_ids, *guesses[row.id]]
            unread = token_ids[len(held.token_ids) :]
            chunks.append(self._chunk(row, held, unread, num_logits=1))
            sampled.append(_quiet(row.sampled_rows()[0], token_ids))
        done = []
        for row, piece in zip(rows, sample(self._runner.run(chunks), sampled), strict=True):
            if piece is not None:
                guesses[row.id].append(piece.token_id)
                done.append(row)
        return done

    def _chunk(
        self, sequence: Sequence, held: _Held, token_ids: Listing[int], num_logits: int
    ) -> RowChunk:
        start = len(held.token_ids)
        held.token_ids += token_ids
        held.num_sure = min(len(held.token_ids), len(sequence.token_ids))
        return RowChunk(sequence.id, token_ids, start, held.blocks, num_logits)

    def _make_room(self, held: _Held, num_tokens: int) -> bool:
        """Give a sequence blocks for so many tokens; False: there are none."""
        num_missing = -(-num_tokens // self._block_size) - len(held.blocks)
        if num_missing > self._pool.num_free:
            return False
        held.blocks += self._pool.allocate(max(0, num_missing))
        return True


def _quiet(row: SampledRow, token_ids: list[int]) -> SampledRow:
    """The row with these tokens, reporting nothing but the token."""
    params = msgspec.structs.replace(row.params, logprobs=None)
    return replace(row, token_ids=token_ids, params=params)
