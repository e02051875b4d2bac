"""The job that adds files as a dataset: read in parallel, some small files, or a part of a large
one, a process at a time. What the parts are hangs on the files alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from llmos.data.datasets.publishing import Parts, publish, side_reasons
from llmos.data.datasets.readers import FORMATS, PART_BYTES, format_of
from llmos.data.datasets.reading import (
    CutTask,
    FileSpec,
    ReadDone,
    ReadTask,
    hashes_name,
    read_cut,
    read_done,
    shard_name,
)
from llmos.data.datasets.stats import Stats
from llmos.data.fetching.sources import fetched
from llmos.data.pipeline.pool import Pool, open_pool
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
    files = [
        FileSpec(digest, shown, format_of(shown, params["format"]))
        for shown, digest in params["files"].items()
    ]
    sizes = {file.digest: context.blobs.path(file.digest).stat().st_size for file in files}
    most = len(_groups(files, sizes)) + sum(size // PART_BYTES for size in sizes.values())
    with open_pool(context, most) as pool:
        groups = _groups(_parted(context, pool, files, sizes), sizes)
        tasks = [_task(context, group, work / f"{place:05d}") for place, group in enumerate(groups)]
        waiting = [task for task in tasks if not Path(task.out).exists()]
        total = sum(map(len, groups))
        done = total - sum(len(task.files) for task in waiting)
        context.progress(done, total, "reading")

        def on_done(place: int) -> None:
            nonlocal done
            done += len(waiting[place].files)
            context.progress(done, total, "reading")

        pool.run(waiting, on_done)
    directories = [Path(task.out) for task in tasks]
    found = [read_done(directory) for directory in directories]
    _check_enough(found, directories, params["max_bad"])
    return _result(context, directories, found)


def _parted(
    context: JobContext, pool: Pool, files: Sequence[FileSpec], sizes: Mapping[str, int]
) -> list[FileSpec]:
    """Return the files, in order, in the place of large ones their parts."""
    folder = prepared(context.checkpoint_dir / "cuts")
    tasks = {
        file.shown: CutTask(
            home=str(context.home),
            file=file,
            encoding=context.params["encoding"],
            unit=context.params["unit"],
            columns=context.params["columns"],
            part_bytes=PART_BYTES,
            out=str(folder / f"{place:05d}"),
        )
        for place, file in enumerate(files)
        if FORMATS[file.format].parts and sizes[file.digest] > PART_BYTES
    }
    pool.run([*tasks.values()], lambda _: None)
    parted = []
    for file in files:
        parts = read_cut(Path(tasks[file.shown].out)) if file.shown in tasks else []
        parted += [replace(file, part=part) for part in parts] or [file]
    return parted


def _result(context: JobContext, directories: list[Path], found: list[ReadDone]) -> JobResult:
    params = context.params
    parts = Parts([], [], [], [], [], Stats())
    files: dict[str, dict[str, Any]] = {}
    for directory, one in zip(directories, found, strict=True):
        numbers = range(len(one.rows))
        parts.rows.extend(directory / shard_name(number) for number in numbers)
        parts.hashes.extend(directory / hashes_name(number) for number in numbers)
        parts.schemas.extend(one.schemas)
        parts.rejected.append(directory / REJECTED)
        parts.stats.add(one.stats)
        for told in one.files:
            known = files.setdefault(told["name"], {**told, "rows": 0, "bad": 0})
            known["rows"] += told["rows"]
            known["bad"] += told["bad"]
    bad = sum(one.bad for one in found)
    about = {
        "rejected": bad,
        "license": params["license"],
        "description": params["description"],
        "source": {
            "kind": "added",
            "from": params["source"],
            "num_files": len(files),
            "files": [*files.values()][:MAX_FILES_TOLD],
            "unit": params["unit"],
            **params.get("origin", {}),
        },
    }
    version = publish(context, params["name"], parts, about, list(params["files"].values()))
    rows = version.manifest["rows"]
    context.log(f"{rows:,} rows of {len(files):,} files; {bad:,} could not be read")
    summary = {"rows": rows, "rejected": bad, "files": len(files)}
    return JobResult(summary, (version,))


def _groups(files: Sequence[FileSpec], sizes: Mapping[str, int]) -> list[list[FileSpec]]:
    """Return the files, or parts, that are read together, in order."""
    groups: list[list[FileSpec]] = []
    held = 0
    for file in files:
        size = GROUP_BYTES if file.part else sizes[file.digest]
        if not groups or held + size > GROUP_BYTES:
            groups.append([])
            held = 0
        groups[-1].append(file)
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
