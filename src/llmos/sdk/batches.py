"""The part of the client that runs files of requests: upload, batch, follow, download."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from llmos.errors import ConflictError, DataError, UnreachableError
from llmos.sdk.asking import given
from llmos.sdk.transfer import PIECE_BYTES, OnProgress
from llmos.sdk.transport import Json, Transport

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
LOOK_EVERY_S = 0.5
LOST_S = 30.0
"""How long a server may be away while a batch is followed."""


class Batching:
    """Runs batches on the server behind ``transport``."""

    transport: Transport
    _clock: Callable[[], float]
    _sleep: Callable[[float], None]

    # -- files -------------------------------------------------------------------------------------

    def upload_batch_file(self, path: Path | str, on_progress: OnProgress | None = None) -> Json:
        """Send a file of requests, a JSON object a line; returns what is known of it.

        Raises:
            DataError: there is no such file, or it cannot be read.
        """
        path = Path(path)
        try:
            with path.open("rb") as file:
                content = _Counted(file, path.name, on_progress)
                files = {"file": (path.name, content, "application/jsonl")}
                return self.transport.json(
                    "POST", "/v1/files", files=files, data={"purpose": "batch"}
                )
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.", param="path") from error

    def files(self, purpose: str | None = None) -> list[Json]:
        """The files of batches, the newest first."""
        return self.transport.list("GET", "/v1/files", params=given({"purpose": purpose}))

    def delete_file(self, file_id: str) -> Json:
        """Forget a file."""
        return self.transport.json("DELETE", _path("files", file_id))

    def download_file(
        self, file_id: str, path: Path | str, on_progress: OnProgress | None = None
    ) -> Path:
        """Write a file's content to ``path``, which appears only when it is whole.

        Raises:
            ConflictError: there is something at ``path``.
        """
        path = Path(path)
        if path.exists():
            raise ConflictError(f"{path} exists already: name another file.", param="path")
        partial = path.with_name(f".{path.name}.partial")
        try:
            with (
                self.transport.stream("GET", f"{_path('files', file_id)}/content") as response,
                partial.open("wb") as out,
            ):
                size, done = int(response.headers["content-length"]), 0
                for piece in response.iter_bytes(PIECE_BYTES):
                    out.write(piece)
                    done += len(piece)
                    if on_progress:
                        on_progress(path.name, done, size)
                out.flush()
                os.fsync(out.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path

    # -- batches -----------------------------------------------------------------------------------

    def create_batch(
        self, file_id: str, endpoint: str, metadata: dict[str, str] | None = None
    ) -> Json:
        """Begin a batch over an uploaded file; returns it.

        Args:
            endpoint: /v1/chat/completions, /v1/completions or /v1/embeddings, as in each row.
            metadata: for people.

        Raises:
            InvalidRequestError: rows of the file cannot be run; the first few are told.
        """
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": "24h"}
        return self.transport.json(
            "POST", "/v1/batches", json=given({**body, "metadata": metadata})
        )

    def batches(self, limit: int = 20, after: str | None = None) -> list[Json]:
        """The newest batches, the newest first: at most ``limit`` (1 to 100) behind ``after``."""
        params = given({"limit": limit, "after": after})
        return self.transport.list("GET", "/v1/batches", params=params)

    def batch(self, batch_id: str) -> Json:
        """One batch. Raises NotFoundError."""
        return self.transport.json("GET", _path("batches", batch_id))

    def cancel_batch(self, batch_id: str) -> Json:
        """Let a batch end with the rows that are done; returns it."""
        return self.transport.json("POST", f"{_path('batches', batch_id)}/cancel")

    def follow_batch(self, batch_id: str) -> Iterator[Json]:
        """Yield a batch whenever it has changed, at last as it ended.

        A server that goes away for at most half a minute is waited for.
        """
        shown: Json = {"status": None}
        lost_at: float | None = None
        while shown["status"] not in ENDED:
            try:
                batch, lost_at = self.batch(batch_id), None
            except UnreachableError:
                lost_at = self._clock() if lost_at is None else lost_at
                if self._clock() - lost_at > LOST_S:
                    raise
                batch = shown
            if batch != shown:
                shown = batch
                yield batch
            if shown["status"] not in ENDED:
                self._sleep(LOOK_EVERY_S)


class _Counted(io.RawIOBase):
    """A file that says how much of it was read."""

    def __init__(self, file: BinaryIO, name: str, on_progress: OnProgress | None) -> None:
        self._file = file
        self._name = name
        self._on_progress = on_progress
        self._size = os.fstat(file.fileno()).st_size
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._done += len(data)
        if data and self._on_progress:
            self._on_progress(self._name, self._done, self._size)
        return data

    def fileno(self) -> int:
        """Return the file's own, by which its length is known."""
        return self._file.fileno()


def _path(noun: str, item_id: str) -> str:
    return f"/v1/{noun}/{quote(item_id, safe='')}"
