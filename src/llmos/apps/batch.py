"""The handler of batch jobs: rows in, a bounded number of them asked at once, lines out.

A row that was answered is kept by the journal and never asked again; one that was not, for whatever
was killed meanwhile, is asked again by the next attempt. A busy server (429, 503) is asked again
when it says; a key that is no longer good ends the batch; any other error is the row's own.
"""

from __future__ import annotations

import heapq
import queue
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from llmos.apps.batch_jobs import BatchParams, Counts
from llmos.apps.batch_journal import Journal, open_journal
from llmos.apps.batch_rows import answer_line, error_line, is_json, read_rows
from llmos.errors import AuthenticationError, CancelledError, DataError, DiskFullError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import Answer
from llmos.storage.blobs import BlobStore
from llmos.types import JobResult

WINDOW_ROWS = 128
"""Rows under way: enough to fill an engine's 64 places twice, and fewer than the 256 of a queue."""
WINDOW_BYTES = 64 * 2**20
FLUSH_ROWS = 1000
FLUSH_BYTES = 4 * 2**20
FLUSH_S = 1.0
"""Rows that were answered are on the disk after so long."""
LOOK_S = 1.0
"""Seconds between looks whether the batch is to be cancelled."""
WAIT_S = 0.04
"""Longest wait without a look around: who does not pause within 0.05 s is stopped."""
MAX_RETRY_S = 60.0
MAX_TRIES = 3
"""Of a row, where the server failed and did not say that asking again may help."""

EndedAs = Literal["completed", "expired", "cancelled"]
_UNASKED = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "cancelled": (
        "batch_cancelled",
        "This request was not executed because the batch was cancelled.",
    ),
}


def run(context: JobContext) -> JobResult:
    """Run a batch to its end. Raises as `run_batch`."""
    try:
        return run_batch(context, time.time, time.monotonic)
    except DiskFullError as error:
        error.retryable = True  # rows that are done are kept, and there may be room again
        raise


def run_batch(
    context: JobContext, clock: Callable[[], float], monotonic: Callable[[], float]
) -> JobResult:
    """Ask every row that no earlier attempt has an answer to; return the files of all.

    Args:
        clock: Unix seconds. monotonic: seconds.

    Raises:
        DataError: the job belongs to no batch.
        CancelledError: the attempt is to end for the sake of others.
        CorruptBlobError, NotFoundError: the input file is damaged or gone.
        DiskFullError: there is no room.
    """
    params = msgspec.convert(context.params, BatchParams)
    journal = open_journal(context.checkpoint_dir, context.attempt)
    if journal.ended_as is None:
        with context.blobs.open(params.digest) as file:
            asking = _Asking(context, params, journal, file, clock, monotonic)
            ended_as = asking.run()
            _report(context, params, journal, is_finalizing=True)
            if ended_as != "completed":
                _write_unasked(params, journal, file, asking.refusal or _UNASKED[ended_as])
        journal.seal(ended_as)
    return _result(journal, context.blobs, clock)


def end_batch(
    params: BatchParams,
    checkpoint_dir: Path,
    attempt: int,
    blobs: BlobStore,
    ended_as: Literal["expired", "cancelled"],
    clock: Callable[[], float],
) -> JobResult:
    """End a batch as an attempt that asks nothing more; return the files of what is done.

    Raises:
        CorruptBlobError, NotFoundError: the input file is damaged or gone.
        DiskFullError: there is no room.
    """
    journal = open_journal(checkpoint_dir, attempt)
    if journal.ended_as is None:
        with blobs.open(params.digest) as file:
            _write_unasked(params, journal, file, _UNASKED[ended_as])
        journal.seal(ended_as)
    return _result(journal, blobs, clock)


def _result(journal: Journal, blobs: BlobStore, clock: Callable[[], float]) -> JobResult:
    return JobResult(
        summary={
            "ended_as": journal.ended_as,
            "completed": journal.completed,
            "failed": journal.failed,
            "finalizing_at": clock(),
            "output": _stored(blobs, journal.output_path),
            "errors": _stored(blobs, journal.errors_path),
        }
    )


def row_id(params: BatchParams, number: int) -> str:
    """Return the id of the answer to the row in line ``number``."""
    return f"batch_req_{params.batch.removeprefix('batch_')}_{number}"


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    custom_id: str
    body: bytes
    tries: int = 0
    """Times that the server failed and did not say when to come again."""

    def __lt__(self, other: _Row) -> bool:
        return self.number < other.number


class _Asking:
    """The rows of one attempt: unread, under way, to be asked again, answered.

    Answers come from another thread, through a queue; a look at the batch itself is asked as the
    rows are, and comes without a row.

    Attributes:
        refusal: code and message where the key that it asks with is no longer good.
    """

    def __init__(
        self,
        context: JobContext,
        params: BatchParams,
        journal: Journal,
        file: BinaryIO,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._context = context
        self._params = params
        self._journal = journal
        self._clock = clock
        self._monotonic = monotonic
        self._unread = _rows(file, journal.done)
        self._next = next(self._unread, None)
        self._later: list[tuple[float, _Row]] = []
        self._answers: queue.SimpleQueue[tuple[_Row | None, Answer]] = queue.SimpleQueue()
        self._num_open = 0
        self._open_bytes = 0
        self._look_at = monotonic()
        self._is_looking = False
        self._is_known = False
        self._is_cancelled = False
        self._flushed_at = monotonic()
        self.refusal: tuple[str, str] | None = None

    def run(self) -> EndedAs:
        """Ask until nothing is left, or the batch is to end before; return how it ended.

        Raises:
            CancelledError: the attempt is to end for the sake of others; what is done is kept.
        """
        while (ended_as := self._ended_as()) is None:
            self._context.wait_while_paused()
            if self._context.is_leaving:
                self._take(0.0)
                self._journal.flush()
                raise CancelledError
            self._look()
            self._fill()
            self._take(WAIT_S)
            self._keep()
        self._take(0.0)
        return ended_as

    def _ended_as(self) -> EndedAs | None:
        if self.refusal is not None:
            return "cancelled"
        if self._is_known and self._next is None and not self._num_open and not self._later:
            return "completed"
        if self._clock() >= self._params.expires_at:
            return "expired"
        try:
            self._context.raise_if_cancelled()
        except CancelledError:
            return "cancelled"
        return "cancelled" if self._is_cancelled else None

    def _look(self) -> None:
        """Look at the batch once in a while."""
        if not self._is_looking and self._monotonic() >= self._look_at:
            self._is_looking = True
            self._ask(f"/v1/batches/{self._params.batch}", None, None)

    def _fill(self) -> None:
        """Ask as many rows as may be under way, those that are to be asked again first."""
        while self._is_known and self._num_open < WINDOW_ROWS:
            row = self._next_row()
            if row is None or (self._num_open and self._open_bytes + len(row.body) > WINDOW_BYTES):
                return
            if self._later and row is self._later[0][1]:
                heapq.heappop(self._later)
            else:
                self._next = next(self._unread, None)
            self._num_open += 1
            self._open_bytes += len(row.body)
            self._ask(self._params.endpoint, row.body, row)

    def _next_row(self) -> _Row | None:
        """Return what may be asked now. Rows that wait to be asked again take up their places."""
        if self._later and self._later[0][0] <= self._monotonic():
            return self._later[0][1]
        return self._next if self._num_open + len(self._later) < WINDOW_ROWS else None

    def _ask(self, path: str, body: bytes | None, row: _Row | None) -> None:
        asked = self._context.ask(path, body)
        asked.add_done_callback(lambda done: self._answers.put((row, done.result())))

    def _take(self, wait_s: float) -> None:
        """Take every answer that is here; where there is none, wait so long for one."""
        while True:
            try:
                row, answer = self._answers.get(block=wait_s > 0, timeout=wait_s)
            except queue.Empty:
                return
            wait_s = 0.0
            if answer.status == AuthenticationError.status:
                self._refused(row, answer)
            elif row is None:
                self._take_look(answer)
            else:
                self._take_row(row, answer)

    def _refused(self, row: _Row | None, answer: Answer) -> None:
        """Note that the batch's key has expired or was revoked: a row it asks for is not asked."""
        error = msgspec.json.decode(answer.body)["error"]
        self.refusal = error["code"], error["message"]
        self._num_open -= row is not None

    def _take_look(self, answer: Answer) -> None:
        self._is_looking = False
        self._look_at = self._monotonic() + LOOK_S
        batch: dict[str, Any] = msgspec.json.decode(answer.body) if answer.status == 200 else {}
        if batch:
            self._is_known = batch["job_id"] == self._context.job_id
            self._is_cancelled = batch["cancelling_at"] is not None
        if not self._is_known and (batch or answer.status in (403, 404)):
            raise DataError("This job belongs to no batch: POST /v1/batches makes them.")

    def _take_row(self, row: _Row, answer: Answer) -> None:
        self._num_open -= 1
        self._open_bytes -= len(row.body)
        again_s = _again_s(answer, row.tries + 1)
        if again_s is not None:
            tries = row.tries + (answer.retry_after_s is None)
            tried = _Row(row.number, row.custom_id, row.body, tries)
            heapq.heappush(self._later, (self._monotonic() + again_s, tried))
            return
        line = answer_line(row_id(self._params, row.number), row.custom_id, answer)
        is_good = answer.status == 200 and is_json(answer)
        add = self._journal.add_output if is_good else self._journal.add_failure
        add(row.number, line)

    def _keep(self) -> None:
        """Bring what was answered to the disk, a group at a time."""
        journal, now = self._journal, self._monotonic()
        is_due = now - self._flushed_at >= FLUSH_S or journal.num_pending >= FLUSH_ROWS
        if journal.num_pending and (is_due or journal.pending_bytes >= FLUSH_BYTES):
            journal.flush()
            self._flushed_at = now
            _report(self._context, self._params, journal)


def _rows(file: BinaryIO, done: set[int]) -> Iterator[_Row]:
    for number, row in read_rows(file):
        if number not in done:
            yield _Row(number, row.custom_id, bytes(row.body))


def _again_s(answer: Answer, tries: int) -> float | None:
    """Return after how long to ask again; None where the answer stands."""
    if answer.status in (429, 503) and answer.retry_after_s is not None:
        return min(answer.retry_after_s, MAX_RETRY_S)
    if answer.status == 429:
        return 1.0
    return float(tries) if answer.status == 503 and tries < MAX_TRIES else None


def _write_unasked(
    params: BatchParams, journal: Journal, file: BinaryIO, why: tuple[str, str]
) -> None:
    """Write down every row that was not answered, and why: a code and a message."""
    code, message = why
    file.seek(0)
    for row in _rows(file, journal.done):
        line = error_line(row_id(params, row.number), row.custom_id, code, message)
        journal.add_unasked(row.number, line)
        if journal.num_pending >= FLUSH_ROWS:
            journal.flush()


def _report(
    context: JobContext, params: BatchParams, journal: Journal, *, is_finalizing: bool = False
) -> None:
    counts = Counts(journal.completed, journal.failed, is_finalizing)
    num_done = journal.completed + journal.failed
    context.progress(num_done, params.num_rows, str(counts))


def _stored(blobs: BlobStore, path: Path) -> dict[str, Any] | None:
    """Store a finished file; None where it has no lines."""
    if not path.stat().st_size:
        return None
    ref = blobs.put_file(path, link=True)
    return {"digest": ref.digest, "size": ref.size}
