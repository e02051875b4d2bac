"""Word documents: paragraphs and tables in their order, by python-docx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmos.data.datasets.readers import Bad, Source
from llmos.data.formats.documents import Document, check_size, rows_of
from llmos.data.formats.packed import open_zip
from llmos.data.pipeline.record import Row
from llmos.errors import DataError


def docx(source: Source) -> Iterator[Row | Bad]:
    """Yield the text of a document, whole unless told: a line for each paragraph and for each row
    of a table, whose cells stand between ``|``; its title as a note. Headers, footers, notes and
    comments are left out.

    Raises:
        DataError: it is too large, encrypted, or no Word document.
    """
    import docx as library
    from docx.opc.exceptions import PackageNotFoundError

    check_size(source)
    open_zip(source.path, source.shown).close()
    try:
        opened = library.Document(str(source.path))
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise DataError(f"it is no Word document that can be read: {error}") from None
    title = (opened.core_properties.title or "").strip()
    text = "\n".join(_lines(opened))
    document = Document(source.shown, [text], meta={"title": title} if title else {})
    yield from rows_of(document, source.unit or "document")


def _lines(container: Any) -> Iterator[str]:
    """Yield the lines of a document, or of a cell."""
    for item in container.iter_inner_content():
        if hasattr(item, "rows"):
            for row in item.rows:
                cells = {cell._tc: cell for cell in row.cells}  # one that spans columns comes often
                yield " | ".join(" ".join(_lines(cell)) for cell in cells.values())
        elif text := " ".join(item.text.split()):
            yield text
