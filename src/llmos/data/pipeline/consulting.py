"""Reading other datasets for the steps that look things up in them.

The option ``datasets`` of such a step names them. Which versions those are is settled when the job
is queued, and they are in the new dataset's lineage. They are read once, before the job's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from llmos.data.pipeline.operator import Consulting, Operator
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import find_operator, make_operator
from llmos.data.pipeline.shard import StepSpec, making
from llmos.storage.blobs import BlobStore
from llmos.storage.parquet import read_rows

Versions = Mapping[str, Mapping[str, Any]]
"""What a job is told of datasets, by what each is for: ``{"ref", "shards", …}``."""


class IndexTask(msgspec.Struct, frozen=True, tag="index"):
    """Read datasets for an operator.

    Attributes:
        datasets: the digests of the shards of each, by its name and version, in order.
        out: the directory to make.
    """

    home: str
    datasets: dict[str, list[str]]
    step: StepSpec
    seed: int
    out: str


def run_index(task: IndexTask) -> None:
    """Read the datasets, unless that is done.

    Raises:
        CorruptBlobError: a shard is damaged.
        DataError: what is wanted cannot be known of them.
        DiskFullError: there is no room.
    """
    if Path(task.out).exists():
        return
    operator = make_operator(task.step.name, task.step.options, task.seed)
    assert isinstance(operator, Consulting)
    blobs = BlobStore(Path(task.home) / "blobs")
    records = {ref: _records(blobs, shards) for ref, shards in task.datasets.items()}
    with making(Path(task.out)) as directory:
        operator.build_index(records, directory)


def consults(step: StepSpec) -> bool:
    """Whether a step looks things up in datasets."""
    return bool(named_datasets([step]))


def named_datasets(steps: list[StepSpec]) -> dict[str, str]:
    """Return the datasets that steps look things up in, by what each is for."""
    return {
        _role(step, place): name
        for step in steps
        if issubclass(find_operator(step.name), Consulting)
        for place, name in enumerate(step.options["datasets"])
    }


def with_versions(steps: list[StepSpec], versions: Versions) -> list[StepSpec]:
    """Return steps that name the versions which were found for their datasets."""
    return [_with_versions(step, versions) if consults(step) else step for step in steps]


def shards_of(step: StepSpec, versions: Versions) -> dict[str, list[str]]:
    """Return the digests of the shards of a step's datasets, by name and version."""
    found = [versions[role] for role in named_datasets([step])]
    return {version["ref"]: version["shards"] for version in found}


def wrong_dataset(step: StepSpec, operator: Operator[Any], versions: Versions) -> str | None:
    """Return why a step cannot look things up in one of its datasets; None: it can."""
    if not isinstance(operator, Consulting):
        return None
    told = [versions[role] for role in named_datasets([step])]
    found = (operator.wrong_dataset(one["columns"], one["ref"]) for one in told if one["columns"])
    return next((wrong for wrong in found if wrong), None)


def _with_versions(step: StepSpec, versions: Versions) -> StepSpec:
    named = [versions[role]["ref"] for role in named_datasets([step])]
    return msgspec.structs.replace(step, options={**step.options, "datasets": named})


def _role(step: StepSpec, place: int) -> str:
    return f"steps.{step.number}.datasets.{place}"


def _records(blobs: BlobStore, shards: list[str]) -> Iterator[Record]:
    for digest in shards:
        blobs.verify(digest)
        yield from map(Record.of_row, read_rows(blobs.path(digest)))
