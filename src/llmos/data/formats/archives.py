"""The files in zip and tar archives, one at a time; what leads out of one, or is none, is refused.

A file is copied out, read and removed. Archives in archives are not opened.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import re
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llmos.data.datasets.readers import FORMATS, Bad, Source, printable, suffix_format
from llmos.data.formats.packed import Unpacked, check_members, open_zip
from llmos.errors import DataError

MAX_NAME_CHARS = 1000
_PIECE_BYTES = 2**20
_UTF8_NAME, _ENCRYPTED = 0x800, 0x1
_DRIVE = re.compile(r"[A-Za-z]:")
_PACKED: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""What packed files begin with -> what opens them."""
_BROKEN = (
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    UnicodeDecodeError,
    struct.error,
)


def zip_members(source: Source, folder: Path) -> Iterator[Source | Bad]:
    """Yield the files of a zip archive that have a known suffix and are not hidden.

    Args:
        folder: where they are put, each until the next is asked for.

    Raises:
        DataError: it is none, or a zip bomb.
    """
    with open_zip(source.path, source.shown) as opened:
        names = _Names(source)
        for info in opened.infolist():
            if info.filename.endswith("/"):
                continue
            mode = info.external_attr >> 16
            is_odd = stat.S_IFMT(mode) not in (0, stat.S_IFREG)
            found = names.take(_zip_name(info), "it is a link or the like" if is_odd else None)
            if isinstance(found, Source):
                yield _zip_member(opened, info, replace(found, path=folder / "member"))
            elif found is not None:
                yield found


def _zip_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, member: Source) -> Source | Bad:
    if info.flag_bits & _ENCRYPTED:
        return Bad(member.shown, "it is encrypted")
    try:
        with opened.open(info) as stream:
            return _copied(stream, member)
    except (NotImplementedError, RuntimeError) as error:  # packed in a way that is not known
        return Bad(member.shown, f"it cannot be unpacked: {error}")
    except _BROKEN as error:
        return Bad(member.shown, f"it is broken: {error}")
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # bz2 tells so, and an odd place in the file
            raise
        return Bad(member.shown, f"it is broken: {error}")


def tar_members(source: Source, folder: Path) -> Iterator[Source | Bad]:
    """Yield the files of a tar archive, packed or not, that have a known suffix and are not hidden.

    Args:
        folder: where they are put, each until the next is asked for.

    Raises:
        DataError: it is none, is broken, or unpacks to too much.
    """
    names = _Names(source)
    try:
        with _unpacked(source) as stream, tarfile.open(fileobj=stream, mode="r|") as opened:
            count = 0
            while (info := opened.next()) is not None:
                opened.members.clear()  # type: ignore[attr-defined]  # it would keep all
                count += 1
                check_members(count, source.shown)
                if info.isdir():
                    continue
                is_odd = not info.isreg() or info.issparse()
                reason = "it is a link or the like" if is_odd else None
                found = names.take(_name(info.name.encode("utf-8", "surrogateescape")), reason)
                if isinstance(found, Source):
                    content = opened.extractfile(info)
                    assert content is not None
                    found = _copied(content, replace(found, path=folder / "member"))
                if found is not None:
                    yield found
            _check_end(opened, stream)
    except _BROKEN as error:
        raise DataError(f"{source.shown} is no tar archive that can be read: {error}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{source.shown} is no tar archive that can be read: {error}") from None


def _check_end(opened: tarfile.TarFile, stream: Unpacked) -> None:
    """Pass silently where only zeros follow the last file: `tarfile` takes the first header that is
    broken, or not whole, for the end.

    Raises:
        tarfile.TarError: something else does.
        EOFError, OSError, zlib.error, lzma.LZMAError: what is packed breaks off there.
    """
    assert opened.fileobj is not None
    while piece := opened.fileobj.read(_PIECE_BYTES):
        if piece.strip(b"\0"):
            raise tarfile.ReadError("a header is broken, or other data follows its end")
    if stream.seen % tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it breaks off")


@contextmanager
def _unpacked(source: Source) -> Iterator[Unpacked]:
    """Give the bytes of a tar archive, which end with an error once they are too many."""
    with source.path.open("rb") as file:
        head = file.read(max(map(len, _PACKED)))
    opener = next((one for mark, one in _PACKED.items() if head.startswith(mark)), None)
    packed = source.path.stat().st_size
    with source.path.open("rb") if opener is None else opener(source.path, "rb") as stream:
        yield Unpacked(stream, packed, source.shown)


class _Names:
    """Tells by its name whether a file of an archive is read."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: set[str] = set()

    def take(self, name: str, reason: str | None) -> Source | Bad | None:
        """Return a file as it is to be read once it is copied, what is bad about it (``reason``,
        where that is known), or None where it is no data file."""
        shown = f"{self._source.shown}/{printable(name[:MAX_NAME_CHARS])}"
        path = PurePosixPath(name.replace("\\", "/"))
        if len(name) > MAX_NAME_CHARS:
            return Bad(shown, "its name is too long")
        if path.is_absolute() or ".." in path.parts or _DRIVE.match(name):
            return Bad(shown, "its name leads out of the archive")
        if reason is not None:
            return Bad(shown, reason)
        form = suffix_format(name)
        if form is None or any(part.startswith(".") for part in path.parts):
            return None
        if FORMATS[form].kind == "archive":
            return Bad(shown, "an archive in an archive is not opened: unpack it")
        if name in self._seen:
            return Bad(shown, "the archive has a file of this name before")
        self._seen.add(name)
        return replace(self._source, shown=shown, format=form)


def _copied(stream: IO[bytes], member: Source) -> Source:
    with member.path.open("wb") as out:
        shutil.copyfileobj(stream, out, _PIECE_BYTES)
    return member


def _zip_name(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & _UTF8_NAME:
        return info.filename
    return _name(info.filename.encode("cp437", "replace"))


def _name(raw: bytes) -> str:
    """Return a name as text: UTF-8, or as older Chinese systems write it."""
    for encoding in ("utf-8", "gb18030"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("utf-8", "replace")
