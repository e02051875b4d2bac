"""File operations that survive a crash: complete writes, synced directories, typed disk errors.

The calls go through `os` one by one, so a test can make any single one of them fail.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from llmos.errors import DiskFullError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Raise DiskFullError in place of an OSError that says there is no room."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFullError from error
        raise


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; one `os.write` may take fewer than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_file(path: Path) -> None:
    """Bring a file's bytes to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Bring a directory's entries (new, renamed and removed names) to the disk."""
    sync_file(path)


def make_directory(path: Path) -> None:
    """Create a directory and its parents so that they survive a crash; no-op when it is there."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        sync_directory(path.parent)
