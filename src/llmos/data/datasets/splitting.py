"""The job that splits a dataset into parts: at random, by group, by label in the same shares, by
time. A part is a version of its own, named after the dataset and the part.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.dealing import (
    DealTask,
    How,
    KeyTask,
    limits_for,
    read_keys,
    read_labels,
)
from llmos.data.datasets.publishing import Parts, file_refs, publish
from llmos.data.pipeline.pool import open_pool
from llmos.data.pipeline.shard import read_done
from llmos.data.pipeline.work import prepared
from llmos.errors import DataError
from llmos.storage.files import disk_errors
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

HOWS: dict[str, How] = {"by": "group", "stratify": "label", "time": "time"}
"""By the request's key that names the field."""


def run(context: JobContext) -> JobResult:
    """Split the dataset in ``context.params``; return a version for each part.

    Raises:
        DataError: a row has nothing in the field, or a part would be empty.
        CorruptBlobError: a shard was damaged.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    with disk_errors():
        return _Split(context).run()


class _Split:
    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._params = context.params
        self._input = context.params["datasets"]["input"]
        self._shares: dict[str, float] = context.params["parts"]
        self._by = next((name for name in HOWS if context.params[name]), None)
        self._steps = 2 * len(self._input["shards"])
        self._done = 0

    def run(self) -> JobResult:
        shards = self._input["shards"]
        with open_pool(self._context, len(shards)) as pool:
            keys = [self._key_task(place, digest) for place, digest in enumerate(shards)]
            pool.run(keys, self._on_done)
            limits = self._limits([Path(task.out) for task in keys])
            deals = [self._deal_task(place, task, limits) for place, task in enumerate(keys)]
            pool.run(deals, self._on_done)
        rows = {
            name: sum(read_done(Path(task.outs[part])).rows for task in deals)
            for part, name in enumerate(self._shares)
        }
        if empty := [name for name, count in rows.items() if not count]:
            raise DataError(
                f"nothing of {self._input['ref']} is left for {', '.join(empty)}: it has too few "
                "rows, groups or times for these parts"
            )
        versions = [
            self._version(name, [Path(task.outs[part]) for task in deals])
            for part, name in enumerate(self._shares)
        ]
        self._context.log(", ".join(f"{name}: {count:,} rows" for name, count in rows.items()))
        return JobResult({"rows": sum(rows.values()), "parts": rows}, tuple(versions))

    def _on_done(self, place: int) -> None:
        self._done += 1
        self._context.progress(self._done, self._steps, "splitting")

    def _key_task(self, place: int, digest: str) -> KeyTask:
        return KeyTask(
            home=str(self._context.home),
            digest=digest,
            how=HOWS[self._by] if self._by else "random",
            field=self._params[self._by] if self._by else "",
            seed=self._params["seed"],
            out=str(prepared(self._context.checkpoint_dir / "keys") / f"{place:05d}"),
        )

    def _deal_task(self, place: int, keys: KeyTask, limits: dict[str, list[int]]) -> DealTask:
        folders = [
            prepared(self._context.checkpoint_dir / "parts" / f"{part:02d}")
            for part in range(len(self._shares))
        ]
        return DealTask(
            home=keys.home,
            digest=keys.digest,
            keys=keys.out,
            limits=limits,
            outs=[str(folder / f"{place:05d}") for folder in folders],
        )

    def _limits(self, directories: list[Path]) -> dict[str, list[int]]:
        """Return the keys that each part but the last ends below, of each label."""
        if self._by != "stratify":
            return {"": self._limits_of([read_keys(directory) for directory in directories])}
        found: dict[str, list[Any]] = {}
        for directory in directories:
            keys = read_keys(directory)
            labels, values = read_labels(directory)
            for number, label in enumerate(values):
                found.setdefault(label, []).append(keys[labels == number])
        return {label: self._limits_of(keys) for label, keys in found.items()}

    def _limits_of(self, keys: list[Any]) -> list[int]:
        total, shares = sum(map(len, keys)), list(self._shares.values())
        ends = [sum(shares[: part + 1]) for part in range(len(shares) - 1)]
        return limits_for(keys, [round(end * total) for end in ends])

    def _version(self, part: str, directories: list[Path]) -> NewVersion:
        parts = Parts.of(directories)
        how = {key: self._params[key] for key in ("seed", *HOWS) if self._params[key]}
        source = {"kind": "split", "input": self._input["ref"], "part": part}
        about = {
            "rejected": 0,
            "license": self._input["license"],
            "description": f"{part} of {self._input['ref']}",
            "source": {**source, "parts": self._shares, **how},
        }
        inputs = [f"dataset:{self._input['ref']}"]
        also = file_refs(self._input["tokenizer"])
        return publish(self._context, f"{self._params['name']}-{part}", parts, about, inputs, also)
