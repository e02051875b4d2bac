"""PDF: the text of each page, by pypdf. Pictures of pages are not read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from llmos.data.datasets.readers import Bad, Source
from llmos.data.formats.documents import Document, check_size, rows_of, tried
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

_LOCKED = "it is encrypted: save it without its password"


def pdf(source: Source) -> Iterator[Row | Bad]:
    """Yield the text of a PDF, page by page unless told, its title as a note.

    Raises:
        DataError: it is encrypted, too large, or no PDF.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns of all that it mends
    from pypdf import PdfReader
    from pypdf.errors import DependencyError, PyPdfError

    check_size(source)
    with source.path.open("rb") as file:
        try:
            reader = PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):  # some open without a password
                raise DataError(_LOCKED)
            num_pages = len(reader.pages)
        except DependencyError:
            raise DataError(f"{_LOCKED}, or pip install cryptography") from None
        except PyPdfError as error:
            raise DataError(f"it is no PDF that can be read: {error}") from None
        title = tried(lambda: str(reader.metadata.title or ""), source.shown)
        document = Document(
            source.shown,
            (_page(reader, number, source.shown) for number in range(num_pages)),
            is_paged=True,
            has_lines=False,
            nothing="it has no text: pictures of pages are not read",
            meta={"title": _mended(title)} if isinstance(title, str) and title.strip() else {},
        )
        yield from rows_of(document, source.unit or "page")


def _page(reader: Any, number: int, shown: str) -> str | Bad:
    def text() -> str:
        return _mended(reader.pages[number].extract_text())

    return tried(text, f"{shown}:{number + 1}")


def _mended(text: str) -> str:
    """Return a text whose halves of characters are joined; those alone become U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
