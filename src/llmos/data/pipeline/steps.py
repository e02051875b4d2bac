"""Records through operators, one step after the other: what is kept, dropped and rejected, and the
counts of each. In memory; `shard` does it with files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from time import perf_counter
from typing import Any

from llmos.data.pipeline.changes import changed_sample
from llmos.data.pipeline.feed import Feed
from llmos.data.pipeline.operator import (
    KEY_BYTES,
    Batcher,
    Collective,
    Comparer,
    Grouper,
    GroupSize,
    Operator,
    Trimmer,
    WindowTrimmer,
)
from llmos.data.pipeline.record import Record, Row
from llmos.errors import LlmosError

BATCH_RECORDS = 256
EXCERPT_CHARS = 200
SAMPLES = 3
"""Of what a step changed."""
TELL_NO_TEXT = frozenset({"anonymise", "deduplicate"})
"""Groups of operators whose reasons name other records, or types of personal data."""
LEFT_OUT = "left out"
"""Why a record is dropped that an operator took and did not yield."""


@dataclass(slots=True)
class Tally:
    """What a step did: records read, kept, changed and rejected, dropped by reason; seconds."""

    read: int = 0
    kept: int = 0
    changed: int = 0
    rejected: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    """The first few that were changed, see `changed_sample`."""
    seconds: float = 0.0

    def add(self, other: Tally) -> None:
        """Count what another did, too."""
        self.read += other.read
        self.kept += other.kept
        self.changed += other.changed
        self.rejected += other.rejected
        self.seconds += other.seconds
        self.samples = (self.samples + other.samples)[:SAMPLES]
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def drop(self, reason: str) -> None:
        """Count a record that is dropped for a reason."""
        short = reason.partition(":")[0]
        self.dropped[short] = self.dropped.get(short, 0) + 1


@dataclass(frozen=True, slots=True)
class Keyed:
    """A record as an operator sees it that goes by the whole dataset."""

    record: Record
    keys: Sequence[bytes]
    weight: int
    """Of a `Comparer`; of a `Grouper` the value."""


@dataclass(slots=True)
class Outcome:
    """What steps did to records: the rows of the side tables."""

    dropped: list[Row] = field(default_factory=list)
    """``{"id", "step", "operator", "reason", "excerpt"}`` of each; steps count from 1."""
    rejected: list[Row] = field(default_factory=list)
    """The same; the reason is what the operator raised."""


class Step:
    """One operator of a pipeline at work.

    Args:
        number: of the step in the pipeline, from 1.
        hides: whether no text that comes here is shown, as where others are made anonymous.
    """

    def __init__(
        self, number: int, name: str, operator: Operator[Any], *, hides: bool = False
    ) -> None:
        self.number = number
        self.name = name
        self.operator = operator
        self.tally = Tally()
        self._hides = hides
        self._field: str | None = getattr(operator.options, "field", None)

    def apply(self, records: list[Record], outcome: Outcome) -> list[Record]:
        """Return those that are kept; note the others in ``outcome``."""
        begun = perf_counter()
        if isinstance(self.operator, Batcher):
            kept = self._together(self.operator, records, outcome)
        else:
            kept = self._one_by_one(records, outcome)
        self.tally.read += len(records)
        self.tally.kept += len(kept)
        self.tally.seconds += perf_counter() - begun
        return kept

    def _one_by_one(self, records: list[Record], outcome: Outcome) -> list[Record]:
        feed = Feed(records)
        kept: list[Record] = []
        while not feed.is_over:
            try:
                for record in self.operator(feed):
                    feed.is_answered = True
                    if record.dropped_reason is not None:
                        self.drop(record, record.dropped_reason, outcome)
                        continue
                    kept.append(record)
                    if feed.was_changed(record):
                        self._note_change(record, feed.before)
                feed.end()
            except MemoryError:
                raise
            except Exception as error:  # the boundary to an operator, which may be a stranger's
                if feed.current is None or feed.is_answered or is_passing(error):
                    raise
                self.reject(feed.current, error, outcome)
                feed.is_answered = True
        for record in feed.left_out:
            self.drop(record, LEFT_OUT, outcome)
        return kept

    def _together(
        self, operator: Batcher[Any], records: list[Record], outcome: Outcome
    ) -> list[Record]:
        before = {id(record): dict(record.fields) for record in records}
        try:
            done = operator.batch(records)
        except MemoryError:
            raise
        except Exception as error:  # as in `_one_by_one`
            if len(records) > 1:
                middle = len(records) // 2
                halves = records[:middle], records[middle:]
                return [one for half in halves for one in self._together(operator, half, outcome)]
            if is_passing(error):
                raise
            self.reject(records[0], error, outcome)
            return []
        kept = []
        for record in done:
            if record.dropped_reason is not None:
                self.drop(record, record.dropped_reason, outcome)
                continue
            kept.append(record)
            if id(record) in before and record.fields != before[id(record)]:
                self._note_change(record, before[id(record)])
        returned = set(map(id, done))
        for record in records:
            if id(record) not in returned:
                self.drop(record, LEFT_OUT, outcome)
        return kept

    def _note_change(self, record: Record, before: Row) -> None:
        self.tally.changed += 1
        if len(self.tally.samples) < SAMPLES and not self._hides:
            self.tally.samples.append(changed_sample(record.id, before, record.fields))

    def keyed(self, records: list[Record], outcome: Outcome) -> list[Keyed]:
        """Return records with their keys, of an operator that goes by the whole dataset; note those
        at which it raised."""
        operator = self.operator
        assert isinstance(operator, Collective)
        begun = perf_counter()
        found = []
        for record in records:
            try:
                keys = operator.keys(record)
                weight = operator.weight(record) if isinstance(operator, Comparer) else 0
                if isinstance(operator, Grouper):
                    (_,), weight = keys, operator.value(record)
                if any(len(key) != KEY_BYTES for key in keys) or weight < 0:
                    raise ValueError(f"keys are of {KEY_BYTES} bytes, and weights not below 0")
                found.append(Keyed(record, keys, weight))
            except Exception as error:  # as in `apply`
                self.reject(record, error, outcome)
        self.tally.kept -= len(records) - len(found)
        self.tally.seconds += perf_counter() - begun
        return found

    def trimmed(
        self, records: Iterable[Record], repeated: Iterable[Sequence[int]], outcome: Outcome
    ) -> Iterator[Record]:
        """Yield records without the pieces that are repeated; note those of which too little is
        left."""
        assert isinstance(self.operator, Trimmer)
        for record, places in zip(records, repeated, strict=True):
            if places:
                before = dict(record.fields)
                self.operator.trim(record, places)
                if record.dropped_reason is not None:
                    self.tally.kept -= 1
                    self.drop(record, record.dropped_reason, outcome)
                    continue
                self._note_change(record, before)
            yield record

    def settled(
        self,
        records: Iterable[Record],
        small: Mapping[int, GroupSize],
        together: GroupSize,
        outcome: Outcome,
    ) -> Iterator[Record]:
        """Yield records, with those of groups that are too small as the operator leaves them."""
        assert isinstance(self.operator, Grouper)
        for row, record in enumerate(records):
            if row in small:
                before = dict(record.fields)
                self.operator.settle(record, small[row], together)
                if record.dropped_reason is not None:
                    self.tally.kept -= 1
                    self.drop(record, record.dropped_reason, outcome)
                    continue
                if record.fields != before:
                    self._note_change(record, before)
            yield record

    def drop(self, record: Record, reason: str, outcome: Outcome) -> None:
        """Note a record that is dropped."""
        self.tally.drop(reason)
        if self.operator.group not in TELL_NO_TEXT:
            reason = self._shown(reason)
        outcome.dropped.append(self._side_row(record, reason))

    def reject(self, record: Record, error: Exception, outcome: Outcome) -> None:
        """Note a record at which the operator raised."""
        self.tally.rejected += 1
        said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        outcome.rejected.append(self._side_row(record, self._shown(str(said)[:1000])))

    def _shown(self, reason: str) -> str:
        """Return a reason without what was found in the text, which stands behind its colon."""
        return reason.partition(":")[0] if self._hides else reason

    def _side_row(self, record: Record, reason: str) -> Row:
        text = record.fields.get(self._field or "text")
        excerpt = text[:EXCERPT_CHARS] if isinstance(text, str) and not self._hides else ""
        return {
            "id": record.id,
            "step": self.number,
            "operator": self.name,
            "reason": reason,
            "excerpt": excerpt,
        }


SIDE_SCHEMA = {
    "id": "string",
    "step": "integer",
    "operator": "string",
    "reason": "string",
    "excerpt": "string",
}


CLUSTER_SCHEMA = {"step": "integer", "cluster": "string", "id": "string", "kept": "boolean"}
"""Of the table of records that are not alone; a cluster is told by the id of the one that stays."""


def is_passing(error: Exception) -> bool:
    """Whether an error is not the record's, but of a model or a server that is busy, or gone for a
    while: then the job is tried again, and no record is lost."""
    return isinstance(error, LlmosError) and error.retryable


def batched(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Yield records in lists of BATCH_RECORDS."""
    iterator = iter(records)
    while batch := list(islice(iterator, BATCH_RECORDS)):
        yield batch


@dataclass(slots=True)
class Applied:
    """What `apply` returns."""

    records: list[Record]
    outcome: Outcome
    tallies: list[Tally]


def apply(operators: Sequence[Operator[Any]], records: Iterable[Record]) -> Applied:
    """Run records through operators in memory: what a job does to a dataset, for few records.

    Returns what a job of the same steps makes, in the same order.
    """
    steps = [Step(number, op.name, op) for number, op in enumerate(operators, 1)]
    outcome = Outcome()
    current = list(records)
    for step in steps:
        current = [one for batch in batched(current) for one in step.apply(batch, outcome)]
        if isinstance(step.operator, Comparer):
            current = _one_of_each(step, step.operator, current, outcome)
        elif isinstance(step.operator, Grouper):
            from llmos.data.pipeline.grouping import small_among

            keyed = step.keyed(current, outcome)
            found = small_among(step.operator, keyed)
            current = [*step.settled([one.record for one in keyed], *found, outcome)]
        elif isinstance(step.operator, Trimmer):
            keyed = step.keyed(current, outcome)
            left = [one.record for one in keyed]
            repeated: Iterable[Sequence[int]]
            if isinstance(step.operator, WindowTrimmer):
                from llmos.data.pipeline.cutting import windows_among

                repeated = windows_among(step.operator, left)
            else:
                repeated = _repeats_among([one.keys for one in keyed])
            current = [*step.trimmed(left, repeated, outcome)]
    return Applied(current, outcome, [step.tally for step in steps])


def _one_of_each(
    step: Step, operator: Comparer[Any], records: list[Record], outcome: Outcome
) -> list[Record]:
    import numpy as np

    from llmos.data.pipeline.clusters import Clusters, entries_of

    keyed = step.keyed(records, outcome)
    clusters = Clusters(len(keyed))
    clusters.unite(entries_of([one.keys for one in keyed]))
    clusters.settle(np.array([one.weight for one in keyed], np.int64))
    stays = clusters.kept(np.arange(len(keyed))).tolist()
    kept = []
    for row, one in enumerate(keyed):
        if stays[row] == row:
            kept.append(one.record)
        else:
            step.tally.kept -= 1
            step.drop(one.record, operator.reason(keyed[stays[row]].record.id), outcome)
    return kept


def _repeats_among(keys: Sequence[Sequence[bytes]]) -> Iterator[list[int]]:
    """Yield of each record which of its pieces are there before."""
    seen: set[bytes] = set()
    for some in keys:
        repeated = []
        for place, key in enumerate(some):
            if key in seen:
                repeated.append(place)
            seen.add(key)
        yield repeated


def tried(operator: Operator[Any], *texts: str) -> list[str]:
    """Return what becomes of texts: the text, or "dropped: " or "rejected: " and why; at the end
    those of new records.

    What the examples of operators are written with.
    """
    records = [Record(str(number), {"text": text}) for number, text in enumerate(texts, 1)]
    done = apply([operator], records)
    found = {record.id: record.text() for record in done.records}
    found |= {row["id"]: f"dropped: {row['reason']}" for row in done.outcome.dropped}
    found |= {row["id"]: f"rejected: {row['reason']}" for row in done.outcome.rejected}
    given = [record.id for record in records]
    new = [record.text() for record in done.records if record.id not in given]
    return [*(found[one] for one in given), *new]
