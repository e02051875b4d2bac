"""The job that gives a labelling task its items: rows of a dataset, drawn, and sent to the server.

It is done twice with no harm: an item that is there stays as it is.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.apps.annotation_jobs import MAX_ITEMS, TASKS
from llmos.apps.annotation_rows import MAX_TASK_BYTES
from llmos.data.annotation.scheme import Scheme, scheme_of, shown_of
from llmos.data.pipeline.record import ID, Row
from llmos.errors import DataError, JobFailedError
from llmos.evaluation.asking import Ask, ask
from llmos.storage.parquet import read_rows
from llmos.types import JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

CHUNK_ITEMS = 200
CHUNK_BYTES = 2**20
"""Sent at once."""
LOOK_ROWS = 500


def run(context: JobContext) -> JobResult:
    """Send the items of the task in ``context.params``, and open it.

    Raises:
        DataError: no row can be shown, or they are too large together.
        CorruptBlobError: a shard was damaged.
        JobFailedError: the server refused them; the task was removed, say.
        CancelledError: the job was cancelled.
    """
    params = context.params
    path = f"{TASKS}/{params['annotation']}"
    task = task_of(context)
    if task["state"] != "filling":
        return JobResult({"annotation": task["id"], "items": task["progress"]["items"]})
    scheme = scheme_of(task["scheme"])
    for digest in params["datasets"]["input"]["shards"]:
        context.blobs.verify(digest)
    left_out: Counter[str] = Counter()
    chosen = _chosen(context, scheme, left_out)
    if not chosen:
        why = "; ".join(f"{reason} ({number:,})" for reason, number in left_out.most_common(3))
        raise DataError(f"none of the {left_out.total():,} rows can be shown: {why}")
    count = num_bytes = 0
    for chunk in _chunks(_items(context, scheme, task["order"], chosen)):
        num_bytes += len(msgspec.json.encode(chunk))
        if num_bytes > MAX_TASK_BYTES:
            raise DataError(
                f"what is shown of the items is over {MAX_TASK_BYTES >> 20} MiB: "
                "show fewer fields, or take fewer rows"
            )
        ask(context, Ask(f"{path}/items", {"items": chunk}))
        count += len(chunk)
        context.progress(count, len(chosen), "items")
    ask(context, Ask(f"{path}/items", {"items": [], "done": True, "left_out": dict(left_out)}))
    context.log(f"{count:,} items; left out: {sum(left_out.values()):,}")
    return JobResult({"annotation": task["id"], "items": count, "left_out": dict(left_out)})


def task_of(context: JobContext) -> dict[str, Any]:
    """Return the task that a job of annotation is about, as the server tells it.

    Raises:
        JobFailedError: there is none, it is another owner's, or of another dataset.
    """
    params = context.params
    task = ask(context, Ask(f"{TASKS}/{params['annotation']}"))
    if "progress" not in task:
        raise JobFailedError(f"annotation task {task['id']} is another owner's")
    if params.get("dataset", task["dataset"]) != task["dataset"]:
        raise JobFailedError(f"annotation task {task['id']} is of {task['dataset']}")
    return task


def draw(seed: int, identifier: str) -> float:
    """Return a number in [0, 1) for a row: what rows are drawn, and put in order, by."""
    drawn = hashlib.blake2b(f"{seed}\x1f{identifier}".encode(), digest_size=6).digest()
    return int.from_bytes(drawn, "big") / 2**48


def _chosen(context: JobContext, scheme: Scheme, left_out: Counter[str]) -> dict[int, float]:
    """Return the places of the rows to take, each with the number that it is drawn by; count the
    rows that cannot be items."""
    params = context.params

    def drawn() -> Iterator[tuple[float, int]]:
        for place, row in _rows(context):
            try:
                shown_of(scheme, row)
            except DataError as error:
                left_out[error.message.partition(":")[0]] += 1
            else:
                yield draw(params["seed"], str(row[ID])), place

    least = heapq.nsmallest(params["rows"] or MAX_ITEMS, drawn())
    return {place: number for number, place in least}


def _items(
    context: JobContext, scheme: Scheme, order: str, chosen: dict[int, float]
) -> Iterator[dict[str, Any]]:
    """Yield the items, in the order of the dataset."""
    for place, row in _rows(context):
        if place not in chosen:
            continue
        shown = shown_of(scheme, row)
        # What no model has looked at comes after what one has.
        rank = {"dataset": float(place), "uncertain": 1 + chosen[place]}.get(order, chosen[place])
        yield {"place": place, "row": str(row[ID]), "shown": shown, "rank": rank}


def _chunks(items: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    num_bytes = 0
    for item in items:
        size = len(msgspec.json.encode(item))
        if chunk and (len(chunk) == CHUNK_ITEMS or num_bytes + size > CHUNK_BYTES):
            yield chunk
            chunk, num_bytes = [], 0
        chunk.append(item)
        num_bytes += size
    if chunk:
        yield chunk


def _rows(context: JobContext) -> Iterator[tuple[int, Row]]:
    """Yield every row with its place, from 0."""
    place = 0
    for digest in context.params["datasets"]["input"]["shards"]:
        for row in read_rows(context.blobs.path(digest)):
            if place % LOOK_ROWS == 0:
                context.raise_if_cancelled()
                context.wait_while_paused()
            yield place, row
            place += 1
