"""WARC, what crawlers keep: the pages among its responses, by warcio and trafilatura."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from llmos.data.datasets.readers import MAX_RECORD_BYTES, Bad, Source, too_long
from llmos.data.formats.documents import Document, rows_of, tried
from llmos.data.formats.html import decoded, page_of
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

_PAGES = ("text/html", "application/xhtml+xml")
_PIECE_BYTES = 2**16


def warc(source: Source) -> Iterator[Row | Bad]:
    """Yield the main text of each page that was answered with status 2xx, with its url and when it
    was fetched; its title as a note. Other records are passed over."""
    from warcio.archiveiterator import ArchiveIterator

    with source.path.open("rb") as file:
        records = ArchiveIterator(file)
        records.INC_RECORD = ""  # else it prints what it passes over
        number = 0
        while True:
            number += 1
            where = f"{source.shown}:{number}"
            record = tried(partial(next, records, None), where)
            if record is None:
                return
            if isinstance(record, Bad):  # where the next begins is not known
                yield Bad(where, f"from here on {record.reason}")
                return
            if _is_page(record):
                page = tried(partial(_page, record, where, source.encoding), where)
                if isinstance(page, Bad):
                    yield page
                else:
                    yield from rows_of(page, source.unit or "document")


def _is_page(record: Any) -> bool:
    if record.rec_type != "response" or record.http_headers is None:
        return False
    kind = record.http_headers.get_header("Content-Type") or ""
    status = record.http_headers.get_statuscode() or ""
    return kind.partition(";")[0].strip().lower() in _PAGES and status.startswith("2")


def _page(record: Any, where: str, encoding: str | None) -> Document:
    url = (record.rec_headers.get_header("WARC-Target-URI") or "").strip("<>")
    fields = {"url": url, "date": record.rec_headers.get_header("WARC-Date")}
    kind = record.http_headers.get_header("Content-Type") or ""
    told = kind.lower().partition("charset=")[2].partition(";")[0].strip("\"' ") or None
    text = decoded(_body(record.content_stream()), where, encoding, told)
    return page_of(text, where, url, {name: value for name, value in fields.items() if value})


def _body(stream: Any) -> bytes:
    """Return what a record holds, unpacked. Raises DataError where it is too much."""
    pieces: list[bytes] = []
    size = 0
    while piece := stream.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_RECORD_BYTES:
            raise DataError(too_long())
    return b"".join(pieces)
