"""Content-addressed files: a blob is named by its SHA-256 and is either there whole or not at all.

Written to a temporary file, synced, renamed to its digest, directory synced; checked again on read.
Several processes may use one store at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from llmos.errors import CorruptBlobError, InvalidNameError, InvalidRequestError, NotFoundError
from llmos.storage.files import disk_errors, make_directory, sync_directory, sync_file, write_all
from llmos.types import FileRef

CHUNK_BYTES = 2**20
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class BlobStore:
    """The blobs under one root: ``sha256/<2 hex>/<64 hex>``, ``tmp/`` and ``quarantine/``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._temporary = root / "tmp"
        self._quarantine = root / "quarantine"
        with disk_errors():
            for directory in (root / "sha256", self._temporary, self._quarantine):
                make_directory(directory)

    # -- putting ---------------------------------------------------------------------------------

    def writer(self) -> BlobWriter:
        """Return a context manager that takes bytes as they come and stores them on ``commit``."""
        return BlobWriter(self)

    def put_bytes(self, data: bytes) -> FileRef:
        """Store ``data``. Raises DiskFullError."""
        with self.writer() as writer:
            writer.write(data)
            return writer.commit()

    def put_file(self, path: Path, *, link: bool = False) -> FileRef:
        """Store the file at ``path``.

        Args:
            link: hard-link it instead of copying, where the file system can; the caller promises
                that nothing writes to it any more.

        Raises:
            NotFoundError: there is no such file.
            InvalidRequestError: it is not a regular file.
            DiskFullError: there is no room.
        """
        source = path.resolve()
        if not source.exists():
            raise NotFoundError(f"{path} does not exist.")
        if not source.is_file():
            raise InvalidRequestError(f"{path} is not a regular file.")
        if link and (ref := self._put_link(source)) is not None:
            return ref
        with source.open("rb") as stream, self.writer() as writer:
            while chunk := stream.read(CHUNK_BYTES):
                writer.write(chunk)
            return writer.commit()

    def _put_link(self, source: Path) -> FileRef | None:
        """Store by hard link; None where the file system cannot."""
        temporary = self._temporary_path()
        try:
            os.link(source, temporary)
        except OSError:
            return None
        try:
            with disk_errors():
                with temporary.open("rb") as stream:
                    digest = hashlib.file_digest(stream, "sha256").hexdigest()
                    os.fsync(stream.fileno())
                    size = os.fstat(stream.fileno()).st_size
                self._publish(temporary, digest)
        finally:
            temporary.unlink(missing_ok=True)
        return FileRef(f"sha256:{digest}", size)

    def _publish(self, temporary: Path, digest: str) -> None:
        """Give a complete, synced temporary file its name. Putting a blob again renews its age."""
        target = self._target(digest)
        make_directory(target.parent)
        with self._lock(fcntl.LOCK_SH):
            temporary.rename(target)
        sync_directory(target.parent)

    # -- getting ---------------------------------------------------------------------------------

    def path(self, digest: str) -> Path:
        """Return where the blob lies (not verified; see `verify`).

        Raises:
            InvalidRequestError: ``digest`` is not ``sha256:`` and 64 lower-case hex digits.
            NotFoundError: there is no such blob.
        """
        target = self._target(parse_digest(digest))
        if not target.exists():
            raise NotFoundError(f"There is no stored file {digest}.")
        return target

    def has(self, digest: str) -> bool:
        """Say whether the blob is there. Raises InvalidRequestError for what is no digest."""
        return self._target(parse_digest(digest)).exists()

    def touch(self, digest: str) -> bool:
        """Renew the blob's age, so `sweep` spares it for another grace period; False if absent."""
        with self._lock(fcntl.LOCK_SH), contextlib.suppress(FileNotFoundError):
            os.utime(self._target(parse_digest(digest)))
            return True
        return False

    def is_newer(self, digest: str, than: float) -> bool:
        """Whether the blob is there and was stored, or touched, at or after a Unix time."""
        with contextlib.suppress(FileNotFoundError):
            return _changed_at(self._target(parse_digest(digest))) >= than
        return False

    def verify(self, digest: str) -> None:
        """Hash the blob again. Raises NotFoundError; CorruptBlobError, after setting it aside."""
        self.open(digest).close()

    def open(self, digest: str) -> BinaryIO:
        """Return the blob opened for reading, verified. Raises as `verify`."""
        path = self.path(digest)
        stream = path.open("rb")
        if hashlib.file_digest(stream, "sha256").hexdigest() != parse_digest(digest):
            self._set_aside(path, stream)
            raise corrupt(digest)
        stream.seek(0)
        return stream

    def _set_aside(self, path: Path, stream: BinaryIO) -> None:
        """Close a damaged blob and move it to quarantine, unless a sound one has replaced it."""
        with stream, self._lock(fcntl.LOCK_EX), contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                path.rename(self._quarantine / f"{path.name}.{uuid.uuid4().hex}")

    def read_bytes(self, digest: str) -> bytes:
        """Return the whole blob, verified. Raises as `verify`."""
        with self.open(digest) as stream:
            return stream.read()

    def materialize(self, files: dict[str, FileRef], directory: Path) -> Path:
        """Make ``directory`` hold exactly ``files`` (file name -> blob), every blob verified.

        The files are hard links to the blobs, or copies where links fail; do not write to them. The
        directory appears whole or not at all, and one that is already right is kept.

        Raises:
            InvalidNameError: a file name is not a plain name.
            NotFoundError, CorruptBlobError: a blob is missing or damaged.
            DiskFullError: there is no room.
        """
        for filename, ref in files.items():
            if filename in {"", ".", ".."} or "/" in filename or "\0" in filename:
                raise InvalidNameError(f"{filename!r} is not a plain file name.")
            self.verify(ref.digest)
        if not self._holds(directory, files):
            with disk_errors():
                self._build(directory, files)
        return directory

    def _holds(self, directory: Path, files: dict[str, FileRef]) -> bool:
        if not directory.is_dir() or {entry.name for entry in directory.iterdir()} != set(files):
            return False
        return all(
            (directory / filename).samefile(self.path(ref.digest))
            or _hash_file(directory / filename) == ref.digest
            for filename, ref in files.items()
        )

    def _build(self, directory: Path, files: dict[str, FileRef]) -> None:
        temporary, replaced = self._temporary_path(), self._temporary_path()
        try:
            temporary.mkdir()
            for filename, ref in files.items():
                self._place(self.path(ref.digest), temporary / filename)
            sync_directory(temporary)
            make_directory(directory.parent)
            with contextlib.suppress(FileNotFoundError):
                directory.rename(replaced)
            temporary.rename(directory)
            sync_directory(directory.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)

    def _place(self, blob: Path, target: Path) -> None:
        try:
            os.link(blob, target)
        except OSError:
            shutil.copyfile(blob, target)
            sync_file(target)

    # -- sweeping --------------------------------------------------------------------------------

    def sweep(self, keep: set[str], older_than: float, now: float) -> list[FileRef]:
        """Remove blobs not in ``keep`` (digests) that were stored more than ``older_than`` seconds
        before ``now``, and left-over temporary files of that age. Return the removed blobs.
        """
        for entry in self._temporary.iterdir():
            if now - _changed_at(entry) > older_than:
                _remove(entry)
        removed = []
        for path in sorted((self._root / "sha256").glob("*/*")):
            digest = f"sha256:{path.name}"
            if digest not in keep and (size := self._remove_old(path, older_than, now)) is not None:
                removed.append(FileRef(digest, size))
        return removed

    def _remove_old(self, path: Path, older_than: float, now: float) -> int | None:
        """Remove one blob unless it is young; return its size. The lock keeps out a put of it."""
        with self._lock(fcntl.LOCK_EX):
            if now - _changed_at(path) <= older_than:
                return None
            size = path.stat().st_size
            path.unlink()
            return size

    # -- places ----------------------------------------------------------------------------------

    def _target(self, hex_digest: str) -> Path:
        return self._root / "sha256" / hex_digest[:2] / hex_digest

    def _temporary_path(self) -> Path:
        return self._temporary / uuid.uuid4().hex

    @contextlib.contextmanager
    def _lock(self, mode: int) -> Iterator[None]:
        """Hold the store's lock file, shared or exclusive, across processes."""
        fd = os.open(self._root / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(fd, mode)
            yield
        finally:
            os.close(fd)


class BlobWriter:
    """Takes a blob's bytes as they come. Leaving the context without `commit` keeps nothing."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._path = store._temporary_path()
        self._hash = hashlib.sha256()
        self._size = 0
        self._fd = -1

    def __enter__(self) -> Self:
        with disk_errors():
            self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)
        self._path.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._size

    def write(self, data: bytes) -> None:
        """Take the next bytes. Raises DiskFullError."""
        with disk_errors():
            write_all(self._fd, data)
        self._hash.update(data)
        self._size += len(data)

    def commit(self) -> FileRef:
        """Store what was written; it is on the disk when this returns. Raises DiskFullError."""
        digest = self._hash.hexdigest()
        with disk_errors():
            os.fchmod(self._fd, 0o444)
            os.fsync(self._fd)
            self._store._publish(self._path, digest)
        return FileRef(f"sha256:{digest}", self._size)


def parse_digest(digest: str) -> str:
    """Return the 64 hex digits of ``sha256:<hex>``. Raises InvalidRequestError for what is not."""
    match = _DIGEST.fullmatch(digest)
    if match is None:
        raise InvalidRequestError(
            f"{digest!r} is not a digest: it must be 'sha256:' and 64 hex digits."
        )
    return match[1]


def is_digest(value: object) -> bool:
    """Whether a value is a text that `parse_digest` takes."""
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def corrupt(digest: str) -> CorruptBlobError:
    """Return the error that names the damaged blob."""
    return CorruptBlobError(
        f"The stored file {digest} no longer matches its digest; it was set aside. "
        "Import or pull the model again."
    )


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _changed_at(path: Path) -> float:
    """When the file was stored or last linked, Unix seconds; a link keeps its source's mtime."""
    return path.lstat().st_ctime


def _remove(path: Path) -> None:
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()
