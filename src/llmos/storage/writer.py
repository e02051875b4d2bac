"""The one thread that writes to the database: changes that wait together are committed together.

Each change of a group runs in a savepoint, so one that fails leaves the others untouched.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, InvalidRequestError

from llmos.errors import DiskFullError
from llmos.storage.engines import typed_error

T = TypeVar("T")

MAX_GROUP = 256


@dataclass(frozen=True, slots=True)
class _Write:
    change: Callable[[Connection], Any]
    future: Future[Any]


@dataclass(frozen=True, slots=True)
class _Outcome:
    value: Any = None
    error: BaseException | None = None


class GroupWriter:
    """Runs changes in order on one connection of ``engine``, a group of them per commit.

    Attributes:
        num_commits: rises with each commit, before anyone is told of it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self.num_commits = 0
        self._thread = threading.Thread(target=self._run, name="llmos-db-writer", daemon=True)
        self._thread.start()

    def submit(self, change: Callable[[Connection], T]) -> Future[T]:
        """Queue a change; its future is done once the change is durable, or has failed.

        A change must touch nothing but the database: it may be run a second time when its group met
        a full disk.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a change may not wait for another change")
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the database is closed")
            self._queue.put(_Write(change, future))
        return future

    def close(self) -> None:
        """Commit what is queued, then end the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        is_open = True
        while is_open:
            group, is_open = self._next_group()
            running = [write for write in group if write.future.set_running_or_notify_cancel()]
            if running:
                self._settle(running)

    def _settle(self, group: list[_Write]) -> None:
        """Settle every future of a group, whatever happens: this thread must go on."""
        try:
            with self._engine.connect() as connection:
                self._commit(connection, group)
        except Exception as error:  # there is no connection to be had, or it broke
            failure = typed_error(error) if isinstance(error, DBAPIError) else error
            for write in group:
                if not write.future.done():
                    write.future.set_exception(failure)

    def _next_group(self) -> tuple[list[_Write], bool]:
        """Wait for a change, then take those queued behind it; False once the writer is closed."""
        group: list[_Write] = []
        item = self._queue.get()
        while item is not None:
            group.append(item)
            if len(group) == MAX_GROUP or self._queue.empty():
                return group, True
            item = self._queue.get()
        return group, False

    def _commit(self, connection: Connection, group: list[_Write]) -> None:
        """Run a group in one transaction. When there is no room for all, try each on its own."""
        try:
            with connection.begin() as transaction:
                if len(group) == 1:  # with nothing else to lose, no savepoint is needed
                    outcomes = [_Outcome(group[0].change(connection))]
                    transaction.commit()  # says so if the change ended it
                else:
                    outcomes = [_attempt(connection, write.change) for write in group]
        except DBAPIError as error:
            failure = typed_error(error)
            if isinstance(failure, DiskFullError) and len(group) > 1:
                for write in group:
                    self._commit(connection, [write])
                return
            failure.__cause__ = error if failure is not error else None
            outcomes = [_Outcome(error=failure) for _ in group]
        except BaseException as error:  # whatever a change raised: this thread must go on
            outcomes = [_Outcome(error=error) for _ in group]
        self.num_commits += 1
        for write, outcome in zip(group, outcomes, strict=True):
            if outcome.error is None:
                write.future.set_result(outcome.value)
            else:
                write.future.set_exception(outcome.error)


def _attempt(connection: Connection, change: Callable[[Connection], Any]) -> _Outcome:
    """Run one change in a savepoint. Raises only when the whole transaction is lost."""
    raw: Any = connection.connection.driver_connection
    raw.execute("SAVEPOINT change")  # by the driver: SQLAlchemy's own takes ten times as long
    try:
        value = change(connection)
        if not connection.in_transaction():
            raise InvalidRequestError("A change ended its transaction.")
        raw.execute("RELEASE change")
    except BaseException as error:
        if not raw.in_transaction or _is_full(error):
            raise
        raw.execute("ROLLBACK TO change")
        raw.execute("RELEASE change")
        return _Outcome(error=error)
    return _Outcome(value)


def _is_full(error: BaseException) -> bool:
    return isinstance(error, DBAPIError) and isinstance(typed_error(error), DiskFullError)
