"""The job that mixes datasets by weights: so many rows of each, drawn, and in each shard of the new
one in the same shares.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.dealing import (
    KEYS,
    GatherTask,
    KeyTask,
    Slice,
    limits_for,
    num_keys,
    read_keys,
)
from llmos.data.datasets.publishing import Parts, file_refs, publish
from llmos.data.datasets.reading import SHARD_ROWS
from llmos.data.pipeline.pool import Pool, open_pool
from llmos.data.pipeline.work import prepared
from llmos.errors import DataError
from llmos.storage.files import disk_errors
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def run(context: JobContext) -> JobResult:
    """Mix the datasets in ``context.params`` and return the new version.

    Raises:
        DataError: one has too few rows, and none may be there twice; or they have the token ids of
            different tokenizers.
        CorruptBlobError: a shard was damaged.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    with disk_errors():
        return _Mix(context).run()


@dataclass(frozen=True, slots=True)
class _Segment:
    """Some rows of one shard that are taken, one copy of each."""

    digest: str
    keys: str
    limit: int
    rows: int
    copy: int


class _Mix:
    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._params = context.params
        self._weights: dict[str, float] = context.params["inputs"]
        self._told: dict[str, Any] = context.params["datasets"]
        self._num_shards = sum(len(told["shards"]) for told in self._told.values())
        self._done, self._steps = 0, 2 * self._num_shards

    def run(self) -> JobResult:
        tokenizer = _one_tokenizer(self._told)
        counts = rows_of_each(
            {ref: told["rows"] for ref, told in self._told.items()},
            self._weights,
            self._params["rows"],
            repeat=self._params["repeat"],
        )
        with open_pool(self._context, self._num_shards) as pool:
            sources = {ref: self._segments(pool, ref, count) for ref, count in counts.items()}
            gathers = self._gather_tasks(sources)
            self._steps = self._num_shards + len(gathers)
            pool.run(gathers, self._on_done)
        return self._result([Path(task.out) for task in gathers], sources, tokenizer)

    def _on_done(self, place: int) -> None:
        self._done += 1
        self._context.progress(self._done, self._steps, "mixing")

    def _segments(self, pool: Pool, ref: str, count: int) -> list[_Segment]:
        """Return what is taken of a dataset: all of it as often as it fits, and some drawn rows."""
        place, digests = list(self._told).index(ref), self._told[ref]["shards"]
        folder = prepared(self._context.checkpoint_dir / "keys" / f"{place:03d}")
        tasks = [
            KeyTask(
                home=str(self._context.home),
                digest=digest,
                how="random",
                field="",
                seed=self._params["seed"],
                out=str(folder / f"{number:05d}"),
            )
            for number, digest in enumerate(digests)
        ]
        pool.run(tasks, self._on_done)
        directories = [Path(task.out) for task in tasks]
        copies, rest = divmod(count, self._told[ref]["rows"])
        (limit,) = limits_for([read_keys(one) for one in directories], [rest])
        segments = []
        for copy in range(copies + 1):
            below = limit if copy == copies else KEYS
            for task, directory in zip(tasks, directories, strict=True):
                taken = num_keys(directory)
                if below < KEYS:
                    taken = int((read_keys(directory) < below).sum())
                if taken:
                    segments.append(_Segment(task.digest, task.out, below, taken, copy))
        return segments

    def _gather_tasks(self, sources: Mapping[str, list[_Segment]]) -> list[GatherTask]:
        total = sum(one.rows for segments in sources.values() for one in segments)
        held = sum(told["rows"] for told in self._told.values())
        # Of long rows there are fewer in a shard, and there must be in the new ones.
        count = math.ceil(total / max(1, min(SHARD_ROWS, held // self._num_shards)))
        folder = prepared(self._context.checkpoint_dir / "mixed")
        names = _names(list(sources))
        return [
            GatherTask(
                home=str(self._context.home),
                slices=[
                    one
                    for ref, own in sources.items()
                    for one in _cut(names[ref], own, place, count)
                ],
                seed=self._params["seed"],
                out=str(folder / f"{place:05d}"),
            )
            for place in range(count)
        ]

    def _result(
        self,
        directories: list[Path],
        sources: Mapping[str, list[_Segment]],
        tokenizer: Mapping[str, Any],
    ) -> JobResult:
        parts = Parts.of(directories)
        refs = {ref: told["ref"] for ref, told in self._told.items()}
        rows = {refs[ref]: sum(one.rows for one in own) for ref, own in sources.items()}
        licences = dict.fromkeys(told["license"] for told in self._told.values())
        about = {
            "rejected": 0,
            "license": " and ".join(filter(None, licences)),
            "description": self._params["description"],
            "source": {
                "kind": "mix",
                "from": ", ".join(f"{ref} ({count:,} rows)" for ref, count in rows.items()),
                "weights": {refs[ref]: weight for ref, weight in self._weights.items()},
                "rows": rows,
                "seed": self._params["seed"],
            },
        }
        inputs = [f"dataset:{ref}" for ref in refs.values()]
        also = file_refs(tokenizer)
        version = publish(self._context, self._params["name"], parts, about, inputs, also)
        return JobResult({"rows": version.manifest["rows"], "parts": rows}, (version,))


def rows_of_each(
    held: Mapping[str, int], weights: Mapping[str, float], rows: int | None, *, repeat: bool
) -> dict[str, int]:
    """Return how many rows are taken of each dataset.

    Args:
        held: rows that each has.
        rows: of all; unless given, as many as there can be without one twice.
        repeat: whether rows may be there more than once.

    Raises:
        DataError: one has too few.
    """
    whole = sum(weights.values())
    most = math.floor(min(held[ref] * whole / weight for ref, weight in weights.items()) + 1e-9)
    total = rows or most
    ends = [round(total * end / whole) for end in accumulate(weights.values())]
    counts = {ref: end - begin for ref, begin, end in zip(weights, [0, *ends], ends, strict=False)}
    for ref, count in counts.items():
        if count > held[ref] and not repeat:
            raise DataError(
                f"{ref} has {held[ref]:,} rows and {count:,} are wanted: ask for {most:,} rows of "
                "all, or let rows be there more than once (repeat)"
            )
    if not all(counts.values()):
        missing = next(ref for ref, count in counts.items() if not count)
        raise DataError(f"of {total:,} rows none would be of {missing}: ask for more")
    return counts


def _names(refs: list[str]) -> dict[str, str]:
    """Return what each dataset is called in the ids of its rows: its name, where that is one's."""
    names = [re.split("[:@]", ref)[0] for ref in refs]
    return {
        ref: name if names.count(name) == 1 else ref for ref, name in zip(refs, names, strict=True)
    }


def _cut(name: str, segments: list[_Segment], place: int, count: int) -> Iterator[Slice]:
    """Yield what the new shard ``place`` of ``count`` takes of a dataset's segments."""
    total = sum(one.rows for one in segments)
    begin, end = place * total // count, (place + 1) * total // count
    passed = 0
    for one in segments:
        skip, stop = max(0, begin - passed), min(one.rows, end - passed)
        passed += one.rows
        if skip < stop:
            before = f"{name}#{one.copy + 1}/" if one.copy else f"{name}/"
            yield Slice(one.digest, one.keys, one.limit, skip, stop - skip, before)


def _one_tokenizer(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the files of the tokenizer that all have the ids of, none where one has none."""
    files = [one["tokenizer"] for one in told.values()]
    if not all(files):
        return {}
    if any(one != files[0] for one in files):
        raise DataError("the datasets have the token ids of different tokenizers")
    return dict(files[0])
