"""The job that compares two datasets by the ids of their rows: what one has more, less, otherwise.

Only some ids are in memory at a time: more of them take more passes.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
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
_Sample = tuple[int, str, bytes, bytes]
"""What an id hashes to, the id, and what the rows hash to that it had before and has after."""
SAMPLES = 5
"""Of each kind of difference; those whose ids hash lowest."""
LOOK_ROWS = 1000


@dataclass(slots=True)
class _Found:
    """Counts, and the ids to show, each with the hash that it is chosen by."""

    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("same", "changed", "added", "removed"), 0)
    )
    samples: dict[str, list[_Sample]] = field(
        default_factory=lambda: {"changed": [], "added": [], "removed": []}
    )

    def note(self, kind: str, identifier: str, before: bytes, after: bytes) -> None:
        """Count a row, of which the hashes are told that there are."""
        self.counts[kind] += 1
        chosen, place = self.samples[kind], _place(identifier)
        if len(chosen) < SAMPLES or place < chosen[-1][0]:
            chosen.append((place, identifier, before, after))
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
    known: Counter[tuple[str, bytes]] = Counter()
    was: dict[str, list[bytes]] = {}
    now: dict[str, list[bytes]] = {}
    for row, place in _rows(context, before["shards"]):
        if place % passes == number:
            known[row[ID], row_hash(row)] += 1
    for row, place in _rows(context, after["shards"]):
        if place % passes != number:
            continue
        one = (row[ID], row_hash(row))
        if known[one]:
            known[one] -= 1
            found.counts["same"] += 1
        else:
            now.setdefault(one[0], []).append(one[1])
    for identifier, hashed in known.elements():
        was.setdefault(identifier, []).append(hashed)
    # Several rows may have the same id: what is left of it was changed as far as both have some.
    for identifier in {**was, **now}:
        for old, new in zip_longest(was.get(identifier, ()), now.get(identifier, ())):
            kind = "added" if old is None else "removed" if new is None else "changed"
            found.note(kind, identifier, old or b"", new or b"")


def _samples(
    context: JobContext, before: dict[str, Any], after: dict[str, Any], found: _Found
) -> dict[str, list[Any]]:
    every = [one for chosen in found.samples.values() for one in chosen]
    old = _chosen(context, before, {(identifier, hashed) for _, identifier, hashed, _ in every})
    new = _chosen(context, after, {(identifier, hashed) for _, identifier, _, hashed in every})
    changed = []
    for _, identifier, before_hash, after_hash in found.samples["changed"]:
        was, now = old[identifier, before_hash], new[identifier, after_hash]
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
        "added": [new[one, hashed] for _, one, _, hashed in found.samples["added"]],
        "removed": [old[one, hashed] for _, one, hashed, _ in found.samples["removed"]],
    }


def _chosen(
    context: JobContext, version: dict[str, Any], wanted: set[tuple[str, bytes]]
) -> dict[tuple[str, bytes], Row]:
    """Return rows by their id and hash."""
    ids = {identifier for identifier, hashed in wanted if hashed}
    rows = _rows(context, version["shards"]) if ids else ()
    some = ((row, row_hash(row)) for row, _ in rows if row[ID] in ids)
    return {(row[ID], hashed): cut(row) for row, hashed in some if (row[ID], hashed) in wanted}


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
