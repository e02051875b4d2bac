"""The composition root: Settings -> System. The only module that knows every package below it.

It opens a home (lock, database, blobs, keys, library, kernel, tasks) and closes it again. It serves
nothing: `llmos.server.process` does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection

from llmos.compression import jobs as compression_jobs
from llmos.engines import builtin as builtin_engines
from llmos.errors import DiskFullError, HomeLockedError
from llmos.kernel.jobs import Job
from llmos.kernel.kernel import Kernel
from llmos.kernel.ledger import Ledger, capacity_of
from llmos.kernel.queue import Commit
from llmos.library import jobs as library_jobs
from llmos.library.artifacts import Library
from llmos.library.drafts import parse_drafts
from llmos.library.starter import install_starter_models
from llmos.plugins.manager import Plugins, load_plugins
from llmos.security import audit
from llmos.security.tokens import Keys
from llmos.settings import Settings
from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database
from llmos.tasks.context import TaskContext
from llmos.tasks.templates import Templates
from llmos.tasks.tokenizers import Tokenizers
from llmos.training import jobs as training_jobs
from llmos.types import JobResult

BUILT_INS = (builtin_engines, library_jobs, training_jobs, compression_jobs)


class HomeLock:
    """Exclusive ownership of a home for as long as it is held.

    Raises:
        HomeLockedError: another process owns the home.
        DiskFullError: there is no room even for the lock file.
    """

    def __init__(self, run_path: Path) -> None:
        try:
            run_path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = (run_path / "lock").open("a+")
        except OSError as error:
            raise _unusable(run_path.parent, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.seek(0)
            owner = self._file.read().strip() or "unknown"
            self._file.close()
            raise HomeLockedError(
                f"another llmos (process {owner}) owns {run_path.parent}: use that one, "
                "stop it with `llmos down`, or set another LLMOS_HOME"
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Give the home up."""
        self._file.close()


def _unusable(home: Path, error: OSError) -> Exception:
    if error.errno == errno.ENOSPC:
        return DiskFullError(f"no room left for {home}: free some space, then try again")
    return HomeLockedError(f"{home} cannot be used as a home ({error.strerror}): set LLMOS_HOME")


@dataclass(frozen=True, slots=True)
class System:
    """An open home. Make one with `open_system`; use it between `start` and `close`."""

    settings: Settings
    lock: HomeLock
    plugins: Plugins
    database: Database
    blobs: BlobStore
    keys: Keys
    library: Library
    kernel: Kernel
    tasks: TaskContext

    async def start(self) -> None:
        """Start the kernel, which requeues what the last owner left running, and the helpers."""
        await self.kernel.start()
        await self.tasks.templates.start()

    async def close(self) -> None:
        """Stop workers (their jobs stay queued) and engines, flush the database, free the home."""
        await self.kernel.stop()
        await self.tasks.close()
        self.database.close()
        self.lock.release()


def open_system(settings: Settings, clock: Callable[[], float] = time.time) -> System:
    """Take a home: lock and migrate it, make its admin key, put the starter models in its library.

    Raises:
        HomeLockedError: another process owns it.
        DatabaseVersionError: a newer llmos wrote it.
        DiskFullError: there is no room.
    """
    settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = HomeLock(settings.run_path)
    try:
        settings.logs_path.mkdir(exist_ok=True)
        database = Database.open(settings.database_path, clock)
    except BaseException:
        lock.release()
        raise
    try:
        return _assemble(settings, lock, database, clock)
    except BaseException:
        database.close()
        lock.release()
        raise


def _assemble(
    settings: Settings, lock: HomeLock, database: Database, clock: Callable[[], float]
) -> System:
    plugins = load_plugins(BUILT_INS)
    blobs = BlobStore(settings.blobs_path)
    keys = Keys(database, clock)
    keys.ensure_admin_key(settings.admin_key_path)
    library = Library(database, blobs, clock, settings.home / "models")
    install_starter_models(library, blobs)
    kernel = Kernel(
        database,
        Ledger(capacity_of(settings.memory_bytes)),
        plugins.job_kinds(),
        settings,
        clock,
        _commit_to(library, clock),
        rng=random.Random(),
        audit=audit.record,
    )
    tasks = TaskContext(
        library,
        kernel.residency,
        Tokenizers(blobs),
        Templates(),
        settings,
        capacity_bytes=kernel.ledger.capacity_bytes,
        changes=database.num_commits,
        drafts=parse_drafts(settings.drafts),
    )
    return System(settings, lock, plugins, database, blobs, keys, library, kernel, tasks)


def _commit_to(library: Library, clock: Callable[[], float]) -> Commit:
    """Return what stores a finished job's artifacts in the transaction that ends the job."""

    def commit(connection: Connection, job: Job, result: JobResult) -> list[str]:
        return [
            library.commit(connection, new, job.owner, job.id, clock(), job.owner).ref
            for new in result.artifacts
        ]

    return commit
