"""The job that adds files as a dataset: read in parallel, a group of files a process at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.publishing import Parts, publish, side_reasons
from llmos.data.datasets.readers import format_of
from llmos.data.datasets.reading import (
    FileSpec,
    ReadDone,
    ReadTask,
    hashes_name,
    read_done,
    shard_name,
)
from llmos.data.datasets.stats import Stats
from llmos.data.fetching.sources import fetched
from llmos.data.pipeline.pool import open_pool
from llmos.data.pipeline.shard import REJECTED
from llmos.data.pipeline.work import prepared
from llmos.errors import DataError
from llmos.storage.files import disk_errors
from llmos.storage.parquet import read_rows
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

GROUP_BYTES = 64 * 2**20
"""Files are read together up to so many bytes, so that small ones share shards."""
MAX_FILES_TOLD = 100
"""In a manifest."""


def run(context: JobContext) -> JobResult:
    """Read the files in ``context.params``, fetched first where they lie elsewhere, and return them
    as a new version.

    Raises:
        LlmosError: what `fetched` raises.
        DataError: a file cannot be read, too many rows cannot, or there are none.
        CorruptBlobError: a file was damaged.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    with disk_errors():
        context.params |= fetched(context)
        return _run(context)


def _run(context: JobContext) -> JobResult:
    params = context.params
    work = prepared(context.checkpoint_dir / "files")
    groups = _groups(context, params)
    tasks = [_task(context, group, work / f"{place:05d}") for place, group in enumerate(groups)]
    total = len(params["files"])
    done = sum(len(task.files) for task in tasks if Path(task.out).exists())
    context.progress(done, total, "reading files")

    def on_done(place: int) -> None:
        nonlocal done
        done += len(waiting[place].files)
        context.progress(done, total, "reading files")

    waiting = [task for task in tasks if not Path(task.out).exists()]
    if waiting:
        with open_pool(context, len(waiting)) as pool:
            pool.run(waiting, on_done)
    directories = [Path(task.out) for task in tasks]
    found = [read_done(directory) for directory in directories]
    _check_enough(found, directories, params["max_bad"])
    return _result(context, directories, found)


def _result(context: JobContext, directories: list[Path], found: list[ReadDone]) -> JobResult:
    params = context.params
    parts = Parts([], [], [], [], [], Stats())
    files: list[dict[str, Any]] = []
    for directory, one in zip(directories, found, strict=True):
        numbers = range(len(one.rows))
        parts.rows.extend(directory / shard_name(number) for number in numbers)
        parts.hashes.extend(directory / hashes_name(number) for number in numbers)
        parts.schemas.extend(one.schemas)
        parts.rejected.append(directory / REJECTED)
        parts.stats.add(one.stats)
        files += one.files
    bad = sum(one.bad for one in found)
    about = {
        "rejected": bad,
        "license": params["license"],
        "description": params["description"],
        "source": {
            "kind": "added",
            "from": params["source"],
            "num_files": len(files),
            "files": files[:MAX_FILES_TOLD],
            "unit": params["unit"],
            **params.get("origin", {}),
        },
    }
    version = publish(context, params["name"], parts, about, list(params["files"].values()))
    rows = version.manifest["rows"]
    context.log(f"{rows:,} rows of {len(files):,} files; {bad:,} could not be read")
    summary = {"rows": rows, "rejected": bad, "files": len(files)}
    return JobResult(summary, (version,))


def _groups(context: JobContext, params: dict[str, Any]) -> list[list[FileSpec]]:
    """Return the files in parts that are read together, in order."""
    groups: list[list[FileSpec]] = []
    held = 0
    for shown, digest in params["files"].items():
        size = context.blobs.path(digest).stat().st_size
        if not groups or held + size > GROUP_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(FileSpec(digest, shown, format_of(shown, params["format"])))
        held += size
    return groups


def _task(context: JobContext, files: list[FileSpec], out: Path) -> ReadTask:
    params = context.params
    return ReadTask(
        home=str(context.home),
        files=files,
        encoding=params["encoding"],
        unit=params["unit"],
        columns=params["columns"],
        stops=params["on_bad"] == "stop",
        out=str(out),
    )


def _check_enough(found: list[ReadDone], directories: list[Path], max_bad: float) -> None:
    rows, bad = sum(sum(one.rows) for one in found), sum(one.bad for one in found)
    if bad > max_bad * (rows + bad) or (bad and not rows):
        first = (row for directory in directories for row in read_rows(directory / REJECTED))
        listed = side_reasons([row for row, _ in zip(first, range(3), strict=False)])
        raise DataError(
            f"{bad:,} of {rows + bad:,} rows cannot be read, over the {max_bad:.2%} that are borne "
            f"(max_bad): {listed}"
        )
    if not rows:
        raise DataError("the files hold no rows")
