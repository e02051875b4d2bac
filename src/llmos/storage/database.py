"""The database of one home: SQLite in WAL mode, one writing thread, read-only connections.

It holds no queries: each package brings its own and runs them through `write` and `read`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from llmos.storage import migrations
from llmos.storage.engines import READER_PRAGMAS, WRITER_PRAGMAS, make_engine, typed_error
from llmos.storage.writer import GroupWriter

T = TypeVar("T")

READER_THREADS = 4


class Database:
    """Reads and writes; a write that returned is on the disk."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer_engine = writer
        self._reader_engine = reader
        self._writer = GroupWriter(writer)
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="llmos-db-reader")

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> Self:
        """Open the database at ``path``, making it or bringing it to this version's schema first.

        Raises:
            DatabaseVersionError: it was written by a newer llmos, or is no llmos database.
            DiskFullError: there is no room to make, back up or migrate it.
        """
        migrations.prepare(path, clock())
        writer = make_engine(path, begin="BEGIN IMMEDIATE", pragmas=WRITER_PRAGMAS)
        reader = make_engine(path, begin="BEGIN", pragmas=READER_PRAGMAS)
        return cls(writer, reader)

    async def write(self, change: Callable[[Connection], T]) -> T:
        """Run ``change`` in a transaction and return its value once that is durable.

        Changes run one at a time, in order. One that raises is rolled back; its error comes here.

        Raises:
            DiskFullError: there was no room; a later write may succeed again.
        """
        return await asyncio.wrap_future(self._writer.submit(change))

    def write_sync(self, change: Callable[[Connection], T]) -> T:
        """`write` for threads without an event loop."""
        return self._writer.submit(change).result()

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run ``query`` in a thread on a read-only snapshot; it sees every write that returned."""
        return await asyncio.get_running_loop().run_in_executor(
            self._readers, self.read_sync, query
        )

    def read_sync(self, query: Callable[[Connection], T]) -> T:
        """`read` for threads without an event loop."""
        try:
            with self._reader_engine.connect() as connection:
                return query(connection)
        except DBAPIError as error:
            raise typed_error(error) from error

    def num_commits(self) -> int:
        """Return how often anything was written: while it stays, what was read is still true."""
        return self._writer.num_commits

    def close(self) -> None:
        """Finish queued writes and close; the writing connection goes last, as it checkpoints."""
        self._readers.shutdown()
        self._writer.close()
        self._reader_engine.dispose()
        self._writer_engine.dispose()
