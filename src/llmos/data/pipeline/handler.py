"""The job that runs a pipeline over a dataset: shards in parallel, from one stage to the next.

A stage ends where an operator compares all records. Whatever is done stays done: after a crash only
shards without their directory are done again.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.data.datasets.publishing import Parts, file_refs, publish, side_reasons
from llmos.data.datasets.stats import Stats
from llmos.data.operators.tokens import Tokenize
from llmos.data.pipeline import spec as specs
from llmos.data.pipeline.changes import found_together
from llmos.data.pipeline.comparing import (
    CompareTask,
    clusters_file,
    read_compared,
)
from llmos.data.pipeline.consulting import IndexTask, consults, shards_of, with_versions
from llmos.data.pipeline.keyfiles import drops_file
from llmos.data.pipeline.pool import Pool, open_pool
from llmos.data.pipeline.registry import find_operator
from llmos.data.pipeline.shard import (
    DROPPED,
    HASHES,
    REJECTED,
    ROWS,
    Done,
    ShardTask,
    StepSpec,
    read_done,
    tally_dict,
)
from llmos.data.pipeline.steps import Tally
from llmos.data.pipeline.work import prepared
from llmos.errors import DataError
from llmos.storage.files import disk_errors
from llmos.storage.parquet import read_rows
from llmos.types import FileRef, JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def run(context: JobContext) -> JobResult:
    """Run the pipeline in ``context.params`` and return its dataset as a new version.

    Raises:
        DataError: too many records were rejected, or none is left.
        CorruptBlobError: a shard of the dataset it reads was damaged.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    with disk_errors():
        return _Run(context).run()


@dataclass(slots=True)
class _Count:
    """How far the job is. ``rows`` are those of shards times stages."""

    rows: int = 0
    read: int = 0
    """Of the dataset, in this attempt."""
    rejected: int = 0
    begun: float = field(default_factory=time.monotonic)


class _Run:
    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._spec = specs.parse(context.params["pipeline"])
        self._versions = context.params["datasets"]
        self._input = self._versions["input"]
        self._steps = with_versions(specs.steps_of(self._spec), self._versions)
        self._stages = specs.stages_of(self._steps)
        self._numbers = range(len(self._input["shards"]))
        """Of the shards."""
        self._work = context.checkpoint_dir / "stages"
        self._indexes = context.checkpoint_dir / "indexes"
        self._models: dict[str, str] = {}
        # What a step makes anonymous stands in what others before it drop or change.
        groups = {find_operator(step.name).group for step in self._steps}
        self._hides = "anonymise" in groups
        self._allowed = int(self._spec.max_rejected * self._input["rows"])
        self._count = _Count()

    def run(self) -> JobResult:
        context, shards = self._context, self._input["shards"]
        self._models = _laid_out(context)
        context.log(f"{self._input['rows']:,} rows in {len(shards)} shards of {self._input['ref']}")
        with open_pool(context, len(shards)) as pool:
            self._read_others(pool)
            for number in range(len(self._stages)):
                self._stage(pool, number)
                if number + 1 < len(self._stages):
                    self._compare(pool, number)
        return self._result()

    def _read_others(self, pool: Pool) -> None:
        """Have the datasets read that steps look things up in."""
        prepared(self._indexes)
        tasks = [
            IndexTask(
                home=str(self._context.home),
                datasets=shards_of(step, self._versions),
                step=step,
                seed=self._spec.seed,
                out=str(self._index(step)),
            )
            for step in self._steps
            if consults(step) and not self._index(step).exists()
        ]
        pool.run(tasks, lambda _: None)

    def _stage(self, pool: Pool, number: int) -> None:
        prepared(self._folder(number))
        tasks = [self._task(number, shard) for shard in self._numbers]
        waiting = []
        for task in tasks:
            if Path(task.out).exists():
                self._counted(read_done(Path(task.out)), is_new=False)
            else:
                waiting.append(task)
        self._check_rejected()

        def on_done(place: int) -> None:
            self._counted(read_done(Path(waiting[place].out)), is_new=number == 0)
            self._check_rejected()

        pool.run(waiting, on_done)

    def _compare(self, pool: Pool, number: int) -> None:
        out = self._drops(number)
        if not out.exists():
            shards = [str(self._shard(number, shard)) for shard in self._numbers]
            task = CompareTask(shards, self._stages[number][-1], self._spec.seed, str(out))
            pool.run([task], lambda _: None)

    def _task(self, number: int, shard: int) -> ShardTask:
        context, before = self._context, number - 1
        is_first = number == 0
        digest = self._input["shards"][shard]
        blob = context.blobs.path(digest)
        drops = "" if is_first else str(drops_file(self._drops(before), shard))
        return ShardTask(
            home=str(context.home),
            source=str(blob if is_first else self._shard(before, shard) / ROWS),
            digest=digest if is_first else "",
            steps=self._stages[number],
            seed=self._spec.seed,
            out=str(self._shard(number, shard)),
            settles=None if is_first else self._stages[before][-1],
            drops=drops,
            indexes={
                str(step.number): str(self._index(step))
                for step in self._stages[number]
                if consults(step)
            },
            is_last=number == len(self._stages) - 1,
            models=self._models,
            hides=self._hides,
        )

    def _index(self, step: StepSpec) -> Path:
        return self._indexes / f"{step.number:03d}"

    def _folder(self, number: int) -> Path:
        return self._work / f"{number:03d}"

    def _shard(self, number: int, shard: int) -> Path:
        return self._folder(number) / f"{shard:05d}"

    def _drops(self, number: int) -> Path:
        return self._folder(number) / "drops"

    def _counted(self, done: Done, *, is_new: bool) -> None:
        count = self._count
        count.rows += done.read
        count.rejected += done.rejected
        count.read += done.read if is_new else 0
        speed = count.read / max(1e-9, time.monotonic() - count.begun)
        total = self._input["rows"] * len(self._stages)
        self._context.progress(min(count.rows, total), total, f"{speed:,.0f} rows/s")

    def _check_rejected(self) -> None:
        if self._count.rejected <= self._allowed:
            return
        tables = sorted(self._work.glob(f"*/*/{REJECTED}"))
        rows = [row for table in tables for row in read_rows(table)][:3]
        raise DataError(
            f"more than {self._allowed:,} of {self._input['rows']:,} records were rejected, the "
            f"{self._spec.max_rejected:.2%} that are borne (max_rejected): {side_reasons(rows)}"
        )

    def _result(self) -> JobResult:
        context = self._context
        last = len(self._stages) - 1
        done = [read_done(self._shard(last, shard)) for shard in self._numbers]
        every = [
            self._shard(stage, shard)
            for shard in self._numbers
            for stage in range(len(self._stages))
        ]
        tallies = self._tallies(every)
        stats = Stats()
        for one in done:
            if one.stats is not None:
                stats.add(one.stats)
        told = [
            {
                "step": step.number,
                "operator": step.name,
                **tally_dict(tally),
                **self._compared(step),
            }
            for step, tally in zip(self._steps, tallies, strict=True)
        ]
        if not stats.rows:
            where = ", ".join(f"{one['operator']} {sum(one['dropped'].values()):,}" for one in told)
            raise DataError(f"nothing is left of {self._input['ref']}; dropped by step: {where}")
        parts = Parts(
            rows=[self._shard(last, shard) / ROWS for shard in self._numbers],
            schemas=[one.schema for one in done],
            hashes=[self._shard(last, shard) / HASHES for shard in self._numbers],
            dropped=[directory / DROPPED for directory in every],
            rejected=[directory / REJECTED for directory in every],
            stats=stats,
            clusters=self._clusters(),
        )
        about = {
            "rejected": self._count.rejected,
            "license": self._spec.license or self._input["license"],
            "description": self._spec.description,
            "source": {"kind": "pipeline", "input": self._input["ref"]},
            "pipeline": {"seed": self._spec.seed, "steps": _plain(self._steps)},
            "operators": told,
        }
        refs = [self._input["ref"], *(one["ref"] for one in self._versions.values())]
        models = dict.fromkeys([*self._models, *specs.models_of(self._steps)])
        inputs = [*(f"dataset:{ref}" for ref in dict.fromkeys(refs)), *models]
        also = _tokenizer_of(self._steps, context.params)
        version = publish(context, self._spec.name, parts, about, inputs, also)
        return JobResult(self._summary(told, tallies, version.manifest), (version,))

    def _compared(self, step: StepSpec) -> dict[str, int]:
        """Return what came of comparing all records, where a step did."""
        for number, stage in enumerate(self._stages[:-1]):
            if stage[-1] is step:
                return read_compared(self._drops(number))
        return {}

    def _clusters(self) -> list[Path]:
        """Return the files of the records that are in clusters, in the order of the steps."""
        files = (
            clusters_file(self._drops(stage), shard)
            for stage in range(len(self._stages) - 1)
            for shard in self._numbers
        )
        return [file for file in files if file.exists()]

    def _tallies(self, directories: list[Path]) -> list[Tally]:
        """Return what each step did, over all shards."""
        tallies = {step.number: Tally() for step in self._steps}
        for directory in directories:
            for number, tally in read_done(directory).tallies.items():
                tallies[int(number)].add(tally)
        return list(tallies.values())

    def _summary(
        self, told: list[dict[str, Any]], tallies: list[Tally], manifest: dict[str, Any]
    ) -> dict[str, Any]:
        """Return the job's result; the manifest has no times, which no two runs share."""
        seconds = time.monotonic() - self._count.begun
        timed = [
            {**one, "seconds": round(tally.seconds, 3)}
            for one, tally in zip(told, tallies, strict=True)
        ]
        for one in timed:
            drops = ", ".join(f"{reason} {count:,}" for reason, count in one["dropped"].items())
            found = found_together(one)
            self._context.log(
                f"{one['step']}. {one['operator']}: {one['read']:,} read, {one['changed']:,} "
                f"changed, {one['kept']:,} kept, {one['rejected']:,} rejected, "
                f"{one['seconds']:.2f} s"
                + (f"; dropped: {drops}" if drops else "")
                + (f"; {found}" if found else "")
            )
        return {
            "rows_read": self._input["rows"],
            "rows": manifest["rows"],
            "dropped": manifest["dropped"],
            "rejected": manifest["rejected"],
            "rows_per_s": round(self._count.read / max(seconds, 1e-9), 1),
            "seconds": round(seconds, 3),
            "operators": timed,
        }


def _laid_out(context: JobContext) -> dict[str, str]:
    """Lay out the files that operators read of models; return where, by the models' names."""
    found = {}
    for number, (name, files) in enumerate(context.params["models"].items()):
        directory = context.checkpoint_dir / "models" / str(number)
        found[name] = str(context.blobs.materialize(file_refs(files), directory))
    return found


def _tokenizer_of(steps: list[StepSpec], params: dict[str, Any]) -> dict[str, FileRef]:
    """Return the files of the tokenizer that made the ids of the new dataset, none for none."""
    made = [step.options["tokenizer"] for step in steps if step.name == Tokenize.name]
    files = params["models"][made[-1]] if made else params["datasets"]["input"]["tokenizer"]
    return file_refs(files)


def _plain(steps: list[StepSpec]) -> list[dict[str, Any]]:
    return [{step.name: step.options} for step in steps]
