"""How much a packed file may hold: bounds that no honest one reaches, checked while it is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from llmos.errors import DataError

MAX_RATIO = 200
"""Bytes that one packed byte may become."""
FREE_BYTES = 2**28
"""May be unpacked whatever the ratio: little text that repeats itself packs better than that."""
MAX_UNPACKED_BYTES = 2**38
MAX_MEMBERS = 1_000_000
_OLE = b"\xd0\xcf\x11\xe0"


def check_unpacked(unpacked: int, packed: int, shown: str) -> None:
    """Pass silently while a file of ``packed`` bytes has not become too many.

    Raises:
        DataError: it has.
    """
    if unpacked > MAX_UNPACKED_BYTES:
        raise DataError(
            f"{shown} unpacks to more than {MAX_UNPACKED_BYTES // 2**30} GB: unpack it yourself, "
            "and add what it holds in parts"
        )
    if unpacked > max(FREE_BYTES, MAX_RATIO * packed):
        raise DataError(
            f"{shown} unpacks to more than {MAX_RATIO} times its size, as a zip bomb does: if you "
            "trust it, unpack it yourself and add what it holds"
        )


def check_members(count: int, shown: str) -> None:
    """Pass silently while an archive has not too many files. Raises DataError."""
    if count > MAX_MEMBERS:
        raise DataError(f"{shown} holds more than {MAX_MEMBERS:,} files: unpack it, and add parts")


class Unpacked(io.RawIOBase):
    """The bytes of a stream that unpacks a file, and how many were ``seen``. Raises DataError once
    there are too many."""

    def __init__(self, stream: BinaryIO, packed: int, shown: str) -> None:
        self._stream = stream
        self._packed = packed
        self._shown = shown
        self.seen = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read some bytes into a buffer; return how many."""
        piece = self._stream.read(len(buffer))
        buffer[: len(piece)] = piece
        self.seen += len(piece)
        check_unpacked(self.seen, self._packed, self._shown)
        return len(piece)


def open_zip(path: Path, shown: str) -> zipfile.ZipFile:
    """Open a zip file whose files, as it declares them, are not too many nor too large; none gives
    more than it declares.

    Raises:
        DataError: they are, or it is none.
    """
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        with path.open("rb") as file:
            is_ole = file.read(4) == _OLE
        reason = "it is encrypted, or of an old format" if is_ole else str(error)
        raise DataError(f"{shown} is no zip file that can be read: {reason}") from None
    try:
        check_members(len(opened.infolist()), shown)
        unpacked = sum(info.file_size for info in opened.infolist())
        check_unpacked(unpacked, path.stat().st_size, shown)
    except DataError:
        opened.close()
        raise
    return opened
