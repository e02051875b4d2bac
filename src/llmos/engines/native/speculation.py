"""Speculative decoding: guesses the next tokens of a row, so that one step can check several.

The target model samples at each guessed position with that position's own random number; a guess
is kept while it equals what was sampled. So the output is the same with and without guesses, which
only cost or save time. ``Speculator`` drafts where that pays, by what was right so far and what a
token more in a step costs. A ``Drafter`` guesses: ``PromptLookup``, or a small model (``drafts``).
"""

from __future__ import annotations

from collections.abc import Sequence as Listing
from dataclasses import dataclass, field
from typing import Protocol

from llmos.engines.native.predictor import StepCost, StepLoad
from llmos.engines.native.sequences import Sequence

MAX_DRAFTS = 8
NGRAMS = (4, 3, 2)
"""Lengths of the repeated ends that prompt lookup goes by, the most telling first."""
MEMORY = 0.98
"""Weight of a guess's outcome when the next one is known."""
PRIOR_GUESSES, PRIOR_RATE = 4.0, 0.5
INDEXED_TOKENS = 1024
"""Read for prompt lookup in a step at most, some 2 ms: long prompts are read over several."""
RECOVERY = 0.99
"""Weight of past outcomes after each step in which they kept from drafting: to try again."""


class Drafter(Protocol):
    """Guesses tokens."""

    def begin(self) -> None:
        """A step begins: what follows is for it."""
        ...

    def kind(self, sequence: Sequence) -> int | None:
        """Return which kind of guess it has for the sequence (each kind has a record of its own);
        None: it has none."""
        ...

    def draft(self, sequences: Listing[Sequence], counts: Listing[int]) -> list[list[int]]:
        """Return up to so many guesses for each of these sequences, which had a kind."""
        ...

    def forget(self, sequence_id: str) -> None:
        """A sequence has ended."""
        ...


@dataclass(slots=True)
class Record:
    """How often a guess was right, given that those before it were; later outcomes count more."""

    num_guesses: float = 0.0
    num_right: float = 0.0

    def rate(self, prior_rate: float = PRIOR_RATE) -> float:
        right = self.num_right + PRIOR_GUESSES * prior_rate
        return right / (self.num_guesses + PRIOR_GUESSES)

    def add(self, num_guesses: int, num_right: int) -> None:
        self.fade(MEMORY**num_guesses)
        self.num_guesses += num_guesses
        self.num_right += num_right

    def fade(self, factor: float) -> None:
        self.num_guesses *= factor
        self.num_right *= factor


@dataclass(slots=True)
class Speculator:
    """Gives decoding sequences their ``drafts`` where that makes more tokens a second."""

    drafter: Drafter
    num_drafted: int = 0
    num_accepted: int = 0
    _draft_token_s: float = 0.0
    _by_kind: dict[int, Record] = field(default_factory=dict)
    _by_sequence: dict[str, tuple[int, Record]] = field(default_factory=dict)
    """The kind of a sequence's drafts, and how its own did."""

    def propose(self, sequences: Listing[Sequence], room: Listing[int], cost: StepCost) -> int:
        """Set the drafts of ``sequences``, all that decode now, to at most ``room`` tokens each;
        return how many there are in all."""
        num_keys = sum(len(sequence.token_ids) for sequence in sequences)
        step_s = cost.seconds(StepLoad(0, len(sequences), num_keys))
        pace_s = step_s / max(1, len(sequences))
        chosen: list[tuple[Sequence, int]] = []
        self.drafter.begin()
        for sequence, most in zip(sequences, room, strict=True):
            sequence.drafts = []
            token_s = cost.decode_s(len(sequence.token_ids)) + self._draft_token_s
            if most < 1 or token_s >= pace_s > 0:
                continue
            if (kind := self.drafter.kind(sequence)) is None:
                continue
            record = self._by_sequence.get(sequence.id, (kind, Record()))[1]
            self._by_sequence[sequence.id] = (kind, record)
            if count := min(most, _worth(self._rate(kind, record), token_s, pace_s)):
                chosen.append((sequence, count))
            else:
                self._kind_record(kind).fade(RECOVERY)
                record.fade(RECOVERY)
        if not chosen:
            return 0
        guesses = self.drafter.draft([s for s, _ in chosen], [count for _, count in chosen])
        for (sequence, _), drafts in zip(chosen, guesses, strict=True):
            sequence.drafts = drafts
        return sum(map(len, guesses))

    def observe_time(self, num_drafts: int, seconds: float) -> None:
        """Learn how long ``propose`` took to make so many drafts."""
        if num_drafts:
            self._draft_token_s += 0.1 * (seconds / num_drafts - self._draft_token_s)

    def observe(self, sequence: Sequence, num_drafts: int, num_right: int) -> None:
        """Learn how many of the sequence's drafts, the leading ones, were right."""
        self.num_drafted += num_drafts
        self.num_accepted += num_right
        num_judged = min(num_drafts, num_right + 1)  # the first wrong one ends it
        kind, record = self._by_sequence[sequence.id]
        self._kind_record(kind).add(num_judged, num_right)
        record.add(num_judged, num_right)

    def forget(self, sequence_id: str) -> None:
        """A sequence has ended."""
        self._by_sequence.pop(sequence_id, None)
        self.drafter.forget(sequence_id)

    def _rate(self, kind: int, record: Record) -> float:
        return record.rate(self._kind_record(kind).rate())

    def _kind_record(self, kind: int) -> Record:
        return self._by_kind.setdefault(kind, Record())


def _worth(rate: float, token_s: float, pace_s: float) -> int:
    """Return how many guesses bring more than they cost, at ``pace_s`` for a token otherwise.

    The n-th one brings rate**n tokens, as all before it must be right too.
    """
    count, chance = 0, rate
    while count < MAX_DRAFTS and chance * pace_s > token_s:
        count, chance = count + 1, chance * rate
    return count


class PromptLookup:
    """Guesses that what followed the same few tokens before follows again (Saxena 2023)."""

    def __init__(self) -> None:
        self._indices: dict[str, _NgramIndex] = {}
        self._tokens_left = INDEXED_TOKENS

    def begin(self) -> None:
        """A step begins."""
        self._tokens_left = INDEXED_TOKENS

    def kind(self, sequence: Sequence) -> int | None:
        """Return how many of the last tokens appeared together before; None, too, until all
        tokens are read."""
        index = self._indices.setdefault(sequence.id, _NgramIndex())
        self._tokens_left -= index.read(sequence.token_ids, self._tokens_left)
        return index.find(sequence.token_ids)

    def draft(self, sequences: Listing[Sequence], counts: Listing[int]) -> list[list[int]]:
        """Return what followed then; it may run on into the guesses themselves."""
        guesses = []
        for sequence, count in zip(sequences, counts, strict=True):
            token_ids = list(sequence.token_ids)
            first, num_known = self._indices[sequence.id].found, len(token_ids)
            for position in range(first, first + count):
                token_ids.append(token_ids[position])
            guesses.append(token_ids[num_known:])
        return guesses

    def forget(self, sequence_id: str) -> None:
        """A sequence has ended."""
        self._indices.pop(sequence_id, None)


@dataclass(slots=True)
class _NgramIndex:
    """Where each n-gram of a growing sequence was last followed by a token."""

    found: int = 0
    """Position of the token after the n-gram that ``find`` found."""
    _after: dict[tuple[int, ...], int] = field(default_factory=dict)
    _num_indexed: int = 0

    def read(self, token_ids: list[int], most: int) -> int:
        """Index up to so many tokens more; return how many."""
        first = self._num_indexed
        self._num_indexed = min(len(token_ids), first + most)
        for end in range(first, self._num_indexed):
            for size in NGRAMS:
                if end >= size:
                    self._after[tuple(token_ids[end - size : end])] = end
        return self._num_indexed - first

    def find(self, token_ids: list[int]) -> int | None:
        """Return the length of the longest n-gram at the end that was there before."""
        if self._num_indexed < len(token_ids):
            return None
        for size in NGRAMS:
            if len(token_ids) > size:
                position = self._after.get(tuple(token_ids[-size:]))
                if position is not None:
                    self.found = position
                    return size
        return None
