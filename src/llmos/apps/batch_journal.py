"""What a batch has done so far, so that whatever is killed whenever, each row is written once.

Finished lines go to two files in groups. A group counts once a record of it, with the sizes that
the files then have, is on the disk: what lies beyond the last record is as good as not written.
Each attempt works on files of its own, begun as a copy of what counts of the attempt before. So a
worker that lives on when its job has passed to another one writes to nobody's files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from llmos.storage.blobs import CHUNK_BYTES
from llmos.storage.files import disk_errors, make_directory, sync_directory, write_all

_OUTPUT, _ERRORS, _JOURNAL = "output.jsonl", "errors.jsonl", "journal.jsonl"
_ATTEMPT = re.compile(r"attempt-([0-9]+)")


class _Record(msgspec.Struct):
    """A group of rows that is done, and how things stand with it."""

    rows: list[int]
    output_bytes: int
    error_bytes: int
    completed: int
    failed: int
    ended_as: str | None = None


_NOTHING = _Record([], 0, 0, 0, 0)
_RECORD = msgspec.json.Decoder(_Record)


class Journal:
    """The files of one attempt. Make one with `open_journal`.

    Attributes:
        done: line numbers of the rows that are written, those of the pending group included.
        completed, failed: how many of them were answered well, or not.
        ended_as: how the batch ended; None while it has not. Nothing is written after it.
        output_path, errors_path: the lines.
        pending_bytes: of the group that no record has yet.
    """

    def __init__(self, directory: Path, done: set[int], last: _Record) -> None:
        self.done = done
        self.completed = last.completed
        self.failed = last.failed
        self.ended_as = last.ended_as
        self.output_path = directory / _OUTPUT
        self.errors_path = directory / _ERRORS
        self.pending_bytes = 0
        self._journal_path = directory / _JOURNAL
        self._sizes = {_OUTPUT: last.output_bytes, _ERRORS: last.error_bytes}
        self._lines: dict[str, list[bytes]] = {_OUTPUT: [], _ERRORS: []}
        self._rows: list[int] = []

    @property
    def num_pending(self) -> int:
        """Rows that no record has yet."""
        return len(self._rows)

    def add_output(self, row: int, line: bytes) -> None:
        """Take a row that was answered well."""
        self.completed += 1
        self._add(_OUTPUT, row, line)

    def add_failure(self, row: int, line: bytes) -> None:
        """Take a row that was answered with an error."""
        self.failed += 1
        self._add(_ERRORS, row, line)

    def add_unasked(self, row: int, line: bytes) -> None:
        """Take a row that was never answered, as the batch ended before."""
        self._add(_ERRORS, row, line)

    def _add(self, name: str, row: int, line: bytes) -> None:
        self._lines[name].append(line)
        self._rows.append(row)
        self.done.add(row)
        self.pending_bytes += len(line)

    def flush(self) -> None:
        """Make the pending group count. Raises DiskFullError; the journal is of no more use then.

        The lines are on the disk before the record that says so.
        """
        if self._rows:
            self._write()

    def seal(self, ended_as: str) -> None:
        """Make everything count, and nothing more be written. Raises as `flush`."""
        self.ended_as = ended_as
        self._write()

    def _write(self) -> None:
        for name, path in ((_OUTPUT, self.output_path), (_ERRORS, self.errors_path)):
            if data := b"".join(self._lines[name]):
                _append(path, data)
                self._sizes[name] += len(data)
        record = _Record(
            self._rows,
            self._sizes[_OUTPUT],
            self._sizes[_ERRORS],
            self.completed,
            self.failed,
            self.ended_as,
        )
        _append(self._journal_path, msgspec.json.encode(record) + b"\n")
        self._lines = {_OUTPUT: [], _ERRORS: []}
        self._rows = []
        self.pending_bytes = 0


def open_journal(root: Path, attempt: int) -> Journal:
    """Begin an attempt's journal where what counts of the attempt before ended.

    Args:
        root: kept across attempts.
        attempt: higher than those before.

    Raises:
        DiskFullError: there is no room.
    """
    with disk_errors():
        make_directory(root)
        directory, draft = root / f"attempt-{attempt}", root / "draft"
        earlier = sorted(_attempts(root), key=_number)
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        done, last = _copy(earlier[-1] if earlier else None, draft)
        draft.rename(directory)
        sync_directory(root)
        for path in earlier:
            shutil.rmtree(path, ignore_errors=True)
    return Journal(directory, done, last)


def _attempts(root: Path) -> Iterator[Path]:
    return (path for path in root.iterdir() if _ATTEMPT.fullmatch(path.name))


def _number(path: Path) -> int:
    return int(path.name.partition("-")[2])


def _copy(source: Path | None, target: Path) -> tuple[set[int], _Record]:
    """Copy what counts of a journal's files, or begin empty ones; return the rows that are done,
    and the last record."""
    done, last, journal_bytes = set[int](), _NOTHING, 0
    if source is not None:
        done, last, journal_bytes = _replay(source)
    sizes = {_OUTPUT: last.output_bytes, _ERRORS: last.error_bytes, _JOURNAL: journal_bytes}
    for name, size in sizes.items():
        _copy_start(None if source is None else source / name, target / name, size)
    sync_directory(target)
    return done, last


def _replay(directory: Path) -> tuple[set[int], _Record, int]:
    """Return the rows of all records that count, the last of them, and where it ends.

    One that is torn, or speaks of more than the files hold, counts no more, nor do those behind it.
    """
    sizes = {name: (directory / name).stat().st_size for name in (_OUTPUT, _ERRORS)}
    done, last, end = set[int](), _NOTHING, 0
    with (directory / _JOURNAL).open("rb") as journal:
        for line in journal:
            record = None
            with contextlib.suppress(msgspec.DecodeError):
                record = _RECORD.decode(line) if line.endswith(b"\n") else None
            if record is None or (
                record.output_bytes > sizes[_OUTPUT] or record.error_bytes > sizes[_ERRORS]
            ):
                break
            done.update(record.rows)
            last, end = record, end + len(line)
    return done, last, end


def _copy_start(source: Path | None, target: Path, size: int) -> None:
    """Make ``target`` of the first ``size`` bytes of ``source``, on the disk."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        if source is not None and size:
            with source.open("rb") as file:
                while size and (data := file.read(min(CHUNK_BYTES, size))):
                    write_all(fd, data)
                    size -= len(data)
        os.fsync(fd)
    finally:
        os.close(fd)


def _append(path: Path, data: bytes) -> None:
    with disk_errors():
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
