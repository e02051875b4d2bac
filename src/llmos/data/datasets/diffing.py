"""The job that compares two datasets by the ids of their rows: what one has more, less, otherwise.

Only some ids are in memory at a time: more of them take more passes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.publishing import cut
from llmos.data.datasets.stats import row_hash
from llmos.data.pipeline.record import ID, META, Row
from llmos.storage.parquet import read_rows
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

IDS_A_PASS = 500_000
SAMPLES = 5
"""Of each kind of difference; those whose ids hash lowest."""
LOOK_ROWS = 1000


@dataclass(slots=True)
class _Found:
    """Counts, and the ids to show, each with the hash that it is chosen by."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("same", "changed", "added", "removed"), 0)
    )
    samples: dict[str, list[tuple[int, str]]] = field(
        default_factory=lambda: {"changed": [], "added": [], "removed": []}
    )

    def note(self, kind: str, identifier: str, number: int) -> None:
        self.counts[kind] += 1
        chosen = self.samples.get(kind)
        if chosen is None:
            return
        if len(chosen) < SAMPLES or number < chosen[-1][0]:
            chosen.append((number, identifier))
            chosen.sort()
            del chosen[SAMPLES:]


def run(context: JobContext) -> JobResult:
    """Compare the versions in ``context.params``; the result has counts and samples.

    Returns:
        A summary ``{"before", "after", "same", "changed", "added", "removed", "samples":
        {"changed": [{"id", "before", "after"}], "added": [row], "removed": [row]}}``; ``meta`` is
        not compared.

    Raises:
        CorruptBlobError: a file was damaged.
        CancelledError: the job was cancelled.
    """
    before, after = (context.params["datasets"][role] for role in ("before", "after"))
    for digest in (*before["shards"], *after["shards"]):
        context.blobs.verify(digest)
        _give_way(context)
    passes = max(1, math.ceil(before["rows"] / IDS_A_PASS), math.ceil(after["rows"] / IDS_A_PASS))
    found = _Found()
    for number in range(passes):
        context.progress(number, passes, "comparing")
        _compare(context, before, after, number, passes, found)
    shown = _samples(context, before, after, found)
    context.progress(passes, passes)
    names = {"before": before["ref"], "after": after["ref"]}
    return JobResult({**names, **found.counts, "samples": shown})


def _compare(
    context: JobContext,
    before: dict[str, Any],
    after: dict[str, Any],
    number: int,
    passes: int,
    found: _Found,
) -> None:
    known: dict[str, bytes] = {}
    for row, place in _rows(context, before["shards"]):
        if place % passes == number:
            known[row[ID]] = row_hash(row)
    for row, place in _rows(context, after["shards"]):
        if place % passes != number:
            continue
        was = known.pop(row[ID], None)
        if was is None:
            found.note("added", row[ID], place)
        else:
            found.note("same" if was == row_hash(row) else "changed", row[ID], place)
    for identifier in known:
        found.note("removed", identifier, _place(identifier))


def _samples(
    context: JobContext, before: dict[str, Any], after: dict[str, Any], found: _Found
) -> dict[str, list[Any]]:
    ids = {kind: [one for _, one in chosen] for kind, chosen in found.samples.items()}
    old = _chosen(context, before, {*ids["changed"], *ids["removed"]})
    new = _chosen(context, after, {*ids["changed"], *ids["added"]})
    changed = []
    for identifier in ids["changed"]:
        was, now = old[identifier], new[identifier]
        names = [name for name in {**was, **now} if name != META and was.get(name) != now.get(name)]
        changed.append(
            {
                "id": identifier,
                "before": {name: was.get(name) for name in names},
                "after": {name: now.get(name) for name in names},
            }
        )
    return {
        "changed": changed,
        "added": [new[identifier] for identifier in ids["added"]],
        "removed": [old[identifier] for identifier in ids["removed"]],
    }


def _chosen(context: JobContext, version: dict[str, Any], ids: set[str]) -> dict[str, Row]:
    if not ids:
        return {}
    rows = _rows(context, version["shards"])
    return {row[ID]: cut(row) for row, _ in rows if row[ID] in ids}


def _rows(context: JobContext, digests: Iterable[str]) -> Iterator[tuple[Row, int]]:
    """Yield every row with the number that its id hashes to."""
    for digest in digests:
        path: Path = context.blobs.path(digest)
        for count, row in enumerate(read_rows(path)):
            if count % LOOK_ROWS == 0:
                _give_way(context)
            yield row, _place(row[ID])


def _place(identifier: str) -> int:
    digest = hashlib.blake2b(identifier.encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def _give_way(context: JobContext) -> None:
    context.wait_while_paused()
    context.raise_if_cancelled()
