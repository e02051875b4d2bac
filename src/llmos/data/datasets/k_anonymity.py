"""The job that counts which rows of a dataset are alike, and tells which groups are too small."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.publishing import cut
from llmos.data.operators.k_anonymity import AlikeOptions, KAnonymity
from llmos.data.pipeline.comparing import CompareTask, GroupTask, read_compared
from llmos.data.pipeline.grouping import read_smallest
from llmos.data.pipeline.pool import open_pool
from llmos.data.pipeline.record import ID
from llmos.data.pipeline.shard import StepSpec
from llmos.data.pipeline.work import give_way, prepared
from llmos.storage.files import disk_errors
from llmos.storage.parquet import num_rows_in, read_rows
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def run(context: JobContext) -> JobResult:
    """Count the groups of the version in ``context.params``; the result has counts and samples.

    Returns:
        A summary ``{"dataset", "rows", "fields", "k", "sensitive", "diversity", "is_k_anonymous",
        "groups", "smallest", "least_values", "small_groups", "small_rows", "small_values",
        "samples": [{"fields": {name: value}, "rows", "values"}]}``: of the groups that are too
        small the smallest. Values are told of the sensitive field, up to MAX_GROUP_VALUES.

    Raises:
        DataError: no row has anything in one of the fields.
        CorruptBlobError: a shard was damaged.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    told = context.params["datasets"]["input"]
    options = {name: context.params[name] for name in AlikeOptions.model_fields}
    step = StepSpec(1, KAnonymity.name, {**options, "action": "report"})
    with disk_errors():
        found = _compared(context, told["shards"], step)
        summary = {"dataset": told["ref"], "rows": told["rows"], **options}
        counts = read_compared(found)
        is_k_anonymous = counts["small_groups"] == 0
        samples = _samples(context, told["shards"], found)
    return JobResult({**summary, "is_k_anonymous": is_k_anonymous, **counts, "samples": samples})


def _compared(context: JobContext, shards: list[str], step: StepSpec) -> Path:
    """Return the directory of what was found."""
    folder = prepared(context.checkpoint_dir / "keys")
    tasks = [
        GroupTask(str(context.home), digest, step, str(folder / f"{place:05d}"))
        for place, digest in enumerate(shards)
    ]
    out = prepared(context.checkpoint_dir / "found") / "drops"
    done = 0

    def on_done(_: int) -> None:
        nonlocal done
        done += 1
        context.progress(done, len(shards) + 1, "counting")

    with open_pool(context, len(shards)) as pool:
        pool.run(tasks, on_done)
        pool.run([CompareTask([one.out for one in tasks], step, 0, str(out))], on_done)
    return out


def _samples(context: JobContext, shards: list[str], found: Path) -> list[dict[str, Any]]:
    """Return the smallest groups, each with what its first row has in the fields."""
    shown, names = read_smallest(found), context.params["fields"]
    rows: dict[int, dict[str, Any]] = {}
    start = 0
    for digest in shards:
        give_way(context)
        path = context.blobs.path(digest)
        end = start + num_rows_in(path)
        wanted = sorted(one.row - start for one in shown if start <= one.row < end)
        if wanted:
            for place, row in enumerate(islice(read_rows(path), wanted[-1] + 1)):
                if place in wanted:
                    rows[start + place] = cut({name: row.get(name) for name in (ID, *names)})
        start = end
    return [
        {
            "fields": {name: rows[one.row].get(name) for name in names},
            "rows": one.rows,
            "values": one.values,
        }
        for one in shown
    ]
