"""Where a job keeps what it has between attempts, and what its workers print."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

MAX_LINES = 20
MAX_TAIL_BYTES = 20_000


class JobFiles:
    """The files of jobs in a home: ``logs/job-N.log`` and the checkpoint directory ``jobs/N``."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def log_path(self, job_id: int) -> Path:
        """Return the file that a job's workers print to."""
        return self._home / "logs" / f"job-{job_id}.log"

    def log_size_bytes(self, job_id: int) -> int:
        """Return how much they have printed so far."""
        path = self.log_path(job_id)
        return path.stat().st_size if path.exists() else 0

    def last_lines(self, job_id: int, start_bytes: int) -> list[str]:
        """Return the last few lines that were printed after the first ``start_bytes``."""
        try:
            with self.log_path(job_id).open("rb") as log_file:
                size_bytes = log_file.seek(0, os.SEEK_END)
                log_file.seek(max(start_bytes, size_bytes - MAX_TAIL_BYTES))
                text = log_file.read(MAX_TAIL_BYTES).decode(errors="replace")
        except OSError:
            return []
        return [line for line in text.splitlines() if line.strip()][-MAX_LINES:]

    def checkpoint_dir(self, job_id: int) -> Path:
        """Return the directory that a job's attempts share; it need not be there."""
        return self._home / "jobs" / str(job_id)

    def checkpointed(self) -> list[int]:
        """Return the ids of jobs that have such a directory."""
        directory = self._home / "jobs"
        names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
        return [int(name) for name in names if name.isdecimal()]

    def remove_checkpoints(self, job_id: int) -> None:
        """Remove what an ended job kept across attempts."""
        shutil.rmtree(self.checkpoint_dir(job_id), ignore_errors=True)
