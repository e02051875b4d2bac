"""The job that makes a dataset of a task's labels: rows with what was decided of them, as recipes
read them, and a table of all labels beside them. A shard that is done stays done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.apps.annotation_filling import task_of
from llmos.apps.annotation_jobs import TASKS
from llmos.apps.annotation_reading import values_of
from llmos.data.annotation.scheme import Scheme, order_of, scheme_of
from llmos.data.annotation.settling import labelled_row, settled
from llmos.data.datasets.publishing import Parts, publish
from llmos.data.pipeline.record import ID, Row
from llmos.data.pipeline.shard import Done, finish, making
from llmos.data.pipeline.work import prepared
from llmos.errors import DataError
from llmos.evaluation.asking import Ask, ask
from llmos.storage.files import disk_errors
from llmos.storage.parquet import append_all, read_rows, write_rows
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

PAGE_ITEMS = 100
ANNOTATIONS, COUNTS = "annotations.parquet", "counts.json"
SCHEMA = {
    "id": "string",
    "annotator": "string",
    "role": "string",
    "value": "string",
    "skipped": "boolean",
    "flag": "string",
    "suggested_by": "string",
    "order": "string",
    "at": "number",
    "label": "integer",
}
"""Of the table of labels: ``id`` of the row, ``value`` as JSON, ``order`` in which the fields were
shown, ``at`` in Unix seconds, ``label`` the number of the label."""


def run(context: JobContext) -> JobResult:
    """Return the dataset of the task in ``context.params``.

    Raises:
        DataError: nothing is decided yet.
        CorruptBlobError: a shard was damaged.
        JobFailedError: the server refused; the task was removed, say.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    with disk_errors():
        return _Export(context).run()


class _Export:
    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._params = context.params
        self._work = prepared(context.checkpoint_dir / "shards")

    def run(self) -> JobResult:
        context, given = self._context, self._params["datasets"]["input"]
        task = task_of(context)
        scheme = scheme_of(task["scheme"])
        items = _Pages(context, self._params)
        directories = [self._work / f"{number:05d}" for number in range(len(given["shards"]))]
        place = 0
        for number, digest in enumerate(given["shards"]):
            context.raise_if_cancelled()
            if not directories[number].exists():
                context.blobs.verify(digest)
                place = self._shard(scheme, task["overlap"], items, digest, place, number)
            else:
                place += json.loads((directories[number] / COUNTS).read_bytes())["read"]
            context.progress(number + 1, len(given["shards"]), "shards")
        return self._result(task, scheme, directories)

    def _shard(
        self, scheme: Scheme, overlap: int, items: _Pages, digest: str, place: int, number: int
    ) -> int:
        """Make one shard of the rows of another, whose first has this place; return the place
        behind its last."""
        rows: list[Row] = []
        table: list[Row] = []
        counts: Counter[str] = Counter()
        items.seek(place)
        for row in read_rows(self._context.blobs.path(digest)):
            counts["read"] += 1
            item = items.at(place)
            place += 1
            if item is None:
                continue
            order = order_of(scheme.kind, scheme.fields, self._params["annotation"], item["place"])
            table += [_label_row(row, label, order) for label in _all_labels(item)]
            made, why = self._decided(scheme, overlap, row, item)
            counts[why] += 1
            if made is not None:
                rows.append(made)
        with making(self._work / f"{number:05d}") as directory:
            write_rows(directory / ANNOTATIONS, table, SCHEMA)
            (directory / COUNTS).write_bytes(msgspec.json.encode(dict(counts)))
            finish(directory, rows, Done(len(rows), counts["read"], 0, {}, {}), is_last=True)
        return place

    def _decided(
        self, scheme: Scheme, overlap: int, row: Row, item: dict[str, Any]
    ) -> tuple[Row | None, str]:
        """Return the row with what was decided of it, and how that was."""
        values = values_of(item)
        note = {"task": self._params["annotation"], "labels": len(values)}
        if item["row"] != str(row[ID]):
            return None, "other_row"
        if (final := item["final"]) is not None:
            value, by = final["value"], "reviewer"
        elif not values or (len(values) < overlap and not self._params["partial"]):
            return None, "unfinished"
        else:
            value, by = settled(scheme, values), "annotators"
        if value is None:
            return None, "undecided"
        made = labelled_row(scheme, row, value, note | {"decided_by": by})
        return (None, "tie") if made is None else (made, by)

    def _result(self, task: dict[str, Any], scheme: Scheme, directories: list[Path]) -> JobResult:
        context, params = self._context, self._params
        given = params["datasets"]["input"]
        counts: Counter[str] = Counter()
        for directory in directories:
            counts.update(json.loads((directory / COUNTS).read_bytes()))
        parts = Parts.of(directories)
        told = {name: count for name, count in sorted(counts.items()) if name != "read"}
        if not parts.stats.rows:
            why = "label more, or decide as a reviewer"
            if not params["partial"]:
                why += ", or take items that have not all their labels, too (partial)"
            left = ", ".join(f"{name} {count}" for name, count in told.items() if count)
            left = f" ({left})" if left else ""
            raise DataError(f"nothing of annotation task {task['id']} is decided yet{left}: {why}")
        about = {
            "rejected": 0,
            "license": given["license"],
            "description": params["description"],
            "source": {"kind": "annotated", "input": given["ref"], "annotation": task["id"]},
            "annotation": {
                "name": task["name"],
                "scheme": scheme.to_dict(),
                "instructions": task["instructions"],
                "overlap": task["overlap"],
                "items": told,
            },
        }
        inputs = [f"dataset:{given['ref']}", f"annotation task {task['id']}"]
        version = publish(context, params["name"], parts, about, inputs)
        version = self._with_labels(version, [one / ANNOTATIONS for one in directories])
        rows = version.manifest["rows"]
        context.log(f"{rows:,} rows: {told}")
        return JobResult({"rows": rows, "items": told}, (version,))

    def _with_labels(self, version: NewVersion, tables: list[Path]) -> NewVersion:
        path = self._context.checkpoint_dir / ANNOTATIONS
        count = append_all(path, tables, SCHEMA)
        files = {**version.files, ANNOTATIONS: self._context.blobs.put_file(path)}
        told = {**version.manifest["annotation"], "labels": count}
        manifest = {**version.manifest, "annotation": told}
        return msgspec.structs.replace(version, files=files, manifest=manifest)


class _Pages:
    """The labelled items of a task, read from the server as they are needed, in order."""

    def __init__(self, context: JobContext, params: dict[str, Any]) -> None:
        self._context = context
        self._path = f"{TASKS}/{params['annotation']}/labelled"
        self._upto = params["upto"]
        self._items: Iterator[dict[str, Any]] = iter(())
        self._next: dict[str, Any] | None = None

    def seek(self, place: int) -> None:
        """Go on from a place, unless that is where the last shard ended."""
        if self._next is None or self._next["place"] < place:
            self._items = self._from(place - 1)
            self._next = next(self._items, None)

    def at(self, place: int) -> dict[str, Any] | None:
        """Return the item of a place, None where it has no labels; places only rise."""
        found = self._next
        if found is None or found["place"] != place:
            return None
        self._next = next(self._items, None)
        return found

    def _from(self, after: int) -> Iterator[dict[str, Any]]:
        query = f"limit={PAGE_ITEMS}&upto={self._upto}"
        path = f"{self._path}?{query}"
        while page := ask(self._context, Ask(f"{path}&after={after}"))["data"]:
            yield from page
            after = page[-1]["place"]


def _all_labels(item: dict[str, Any]) -> list[dict[str, Any]]:
    final = item["final"]
    return [*item["labels"], *(() if final is None else (final,))]


def _label_row(row: Row, label: dict[str, Any], order: list[str]) -> Row:
    value = None if label["skipped"] else json.dumps(label["value"], ensure_ascii=False)
    told = {name: label[name] for name in ("annotator", "role", "skipped", "flag", "suggested_by")}
    told |= {"value": value, "order": ", ".join(order), "at": label["at"], "label": label["id"]}
    return {ID: row[ID], **told}
