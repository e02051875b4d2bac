"""Files as answers: always attachments, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO
from urllib.parse import quote

PIECE_BYTES = 2**20


def attachment(filename: str) -> dict[str, str]:
    """Return the header that makes browsers save a file, under this name, and never show it."""
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(filename, safe='')}"}


def pieces(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what is left of a file, and close it."""
    with stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece
