"""In-memory twins of the database and the blob store, with the same behaviour, for tests."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
import time
import uuid
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self, TypeVar

from sqlalchemy import Connection, StaticPool

from llmos.errors import NotFoundError
from llmos.storage.blobs import BlobStore, BlobWriter, corrupt, parse_digest
from llmos.storage.database import Database
from llmos.storage.engines import WRITER_PRAGMAS, make_engine
from llmos.storage.schema import metadata
from llmos.types import FileRef

T = TypeVar("T")


class MemoryDatabase(Database):
    """A Database that lives on one in-memory connection; reads take their turn among the writes."""

    def __init__(self) -> None:
        engine = make_engine(None, begin="BEGIN", pragmas=WRITER_PRAGMAS[2:], poolclass=StaticPool)
        metadata.create_all(engine)
        super().__init__(engine, engine)

    def read_sync(self, query: Callable[[Connection], T]) -> T:
        def read_only(connection: Connection) -> T:
            connection.exec_driver_sql("PRAGMA query_only=ON")
            try:
                return query(connection)
            finally:
                connection.exec_driver_sql("PRAGMA query_only=OFF")

        return self.write_sync(read_only)


@dataclass(slots=True)
class _Blob:
    data: bytes
    stored_at: float


class MemoryBlobStore(BlobStore):
    """A BlobStore in a dict; a blob becomes a (temporary) file only when its path is asked for."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.blobs: dict[str, _Blob] = {}
        self.quarantined: list[str] = []
        self._clock = clock
        self._directory: Path | None = None

    def writer(self) -> BlobWriter:
        return _MemoryBlobWriter(self)

    def put_file(self, path: Path, *, link: bool = False) -> FileRef:
        return super().put_file(path, link=False)

    def path(self, digest: str) -> Path:
        name = parse_digest(digest)
        data = self._blob(digest).data
        file = self._files() / name
        if not file.exists():
            file.write_bytes(data)
        return file

    def has(self, digest: str) -> bool:
        parse_digest(digest)
        return digest in self.blobs

    def touch(self, digest: str) -> bool:
        if found := self.has(digest):
            self.blobs[digest].stored_at = self._clock()
        return found

    def is_newer(self, digest: str, than: float) -> bool:
        return self.has(digest) and self.blobs[digest].stored_at >= than

    def open(self, digest: str) -> BinaryIO:
        data = self._blob(digest).data
        if hashlib.sha256(data).hexdigest() != parse_digest(digest):
            del self.blobs[digest]
            self.quarantined.append(digest)
            raise corrupt(digest)
        return io.BytesIO(data)

    def sweep(self, keep: set[str], older_than: float, now: float) -> list[FileRef]:
        old = [
            FileRef(digest, len(blob.data))
            for digest, blob in sorted(self.blobs.items())
            if digest not in keep and now - blob.stored_at > older_than
        ]
        for ref in old:
            del self.blobs[ref.digest]
        return old

    def keep(self, data: bytes) -> FileRef:
        """Put ``data`` into the dict."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blobs[digest] = _Blob(data, self._clock())
        return FileRef(digest, len(data))

    def _blob(self, digest: str) -> _Blob:
        if not self.has(digest):
            raise NotFoundError(f"There is no stored file {digest}.")
        return self.blobs[digest]

    def _files(self) -> Path:
        if self._directory is None:
            self._directory = Path(tempfile.mkdtemp(prefix="llmos-blobs-"))
            weakref.finalize(self, shutil.rmtree, self._directory, ignore_errors=True)
        return self._directory

    def _temporary_path(self) -> Path:
        return self._files() / uuid.uuid4().hex


class _MemoryBlobWriter(BlobWriter):
    def __init__(self, store: MemoryBlobStore) -> None:
        self._memory = store
        self._data = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._data.clear()

    @property
    def size(self) -> int:
        return len(self._data)

    def write(self, data: bytes) -> None:
        self._data += data

    def commit(self) -> FileRef:
        return self._memory.keep(bytes(self._data))
