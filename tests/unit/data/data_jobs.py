"""Jobs of datasets run in this process, with others for their shards, as a worker would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from llmos.data.datasets import adding, diffing, jobs, k_anonymity
from llmos.data.pipeline import handler
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker, StartJob
from llmos.library.files import TOKENIZER_FILES
from llmos.library.manifest import version_digest
from llmos.storage.parquet import Row, read_rows
from llmos.types import JobResult, NewVersion


@dataclass
class Home:
    """A folder with blobs, in which jobs run one after the other."""

    root: Path
    threads: int = 1
    jobs: int = 0

    def context(self, params: dict[str, Any], checkpoint: str = "") -> JobContext:
        """What a job of its own gets, or one that goes on with the files of another."""
        self.jobs += 1
        self.sent: list[FromWorker] = []
        start = StartJob(
            job_id=self.jobs,
            fence=1,
            attempt=1,
            handler="",
            name="data",
            params=params,
            owner="admin",
            home=str(self.root / "home"),
            checkpoint_dir=str(self.root / (checkpoint or f"job-{self.jobs}")),
            threads=self.threads,
            heartbeat_s=10.0,
        )
        return JobContext(start, self.sent.append)

    def add(
        self, files: Mapping[str, bytes | str], name: str = "made", **options: Any
    ) -> JobResult:
        """Add files as a dataset."""
        context = self.context({})
        digests = {
            shown: context.blobs.put_bytes(
                content if isinstance(content, bytes) else content.encode()
            ).digest
            for shown, content in files.items()
        }
        context.params = jobs.check_add({"name": name, "files": digests, **options})
        return adding.run(context)

    def run(
        self,
        version: NewVersion,
        steps: list[Any],
        checkpoint: str = "",
        others: Mapping[str, NewVersion] | None = None,
        models: Mapping[str, Any] | None = None,
        **keys: Any,
    ) -> JobResult:
        """Run a pipeline over a dataset; ``others`` are what its steps look things up in,
        ``models`` the files that operators read."""
        pipeline = {"name": "clean", "input": version.name, "steps": steps, **keys}
        datasets = {"input": self.told(version)}
        datasets |= {role: self.told(other) for role, other in (others or {}).items()}
        given = {"pipeline": pipeline, "datasets": datasets, "models": models or {}}
        params = jobs.check_run(given)
        return handler.run(self.context(params, checkpoint))

    def diff(self, before: NewVersion, after: NewVersion) -> dict[str, Any]:
        """Compare two datasets."""
        datasets = {"before": self.told(before), "after": self.told(after)}
        given = {"before": before.name, "after": after.name, "datasets": datasets}
        return diffing.run(self.context(jobs.check_diff(given))).summary

    def check_k_anonymity(self, version: NewVersion, **options: Any) -> dict[str, Any]:
        """Count which rows of a dataset are alike."""
        given = {"input": version.name, "datasets": {"input": self.told(version)}, **options}
        return k_anonymity.run(self.context(jobs.check_k_anonymity(given))).summary

    def told(self, version: NewVersion) -> dict[str, Any]:
        """What the server tells a job of a dataset."""
        return {
            "ref": f"{version.name}:1",
            "digest": version_digest(version.files, version.manifest),
            "rows": version.manifest["rows"],
            "license": version.manifest["license"],
            "shards": [version.files[one["file"]].digest for one in version.manifest["shards"]],
            "columns": version.manifest["schema"],
            "tokenizer": {
                name: to_builtins(version.files[name])
                for name in TOKENIZER_FILES
                if name in version.files
            },
        }

    def rows(self, version: NewVersion) -> list[Row]:
        """All rows of a dataset, in order."""
        names = [one["file"] for one in version.manifest["shards"]]
        return [row for name in names for row in self.table(version, name)]

    def table(self, version: NewVersion, filename: str) -> list[Row]:
        """The rows of one of its files; none where there is no such file."""
        if filename not in version.files:
            return []
        return list(read_rows(self.context({}).blobs.path(version.files[filename].digest)))


def only(result: JobResult) -> NewVersion:
    """The version that a job made."""
    (version,) = result.artifacts
    return version
