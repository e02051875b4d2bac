"""EPUB books: the text of each file of the spine, in order (EPUB 3.3, sections 4 to 6)."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from llmos.data.datasets.readers import MAX_RECORD_BYTES, Bad, Source, too_long
from llmos.data.formats.documents import Document, check_size, rows_of, tried
from llmos.data.formats.html import all_text, decoded
from llmos.data.formats.packed import open_zip
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"


def epub(source: Source) -> Iterator[Row | Bad]:
    """Yield the text of a book, a row for each file of its spine, most often a chapter, unless
    told; its title and language as notes.

    Raises:
        DataError: it is too large, or no EPUB.
    """
    check_size(source)
    with open_zip(source.path, source.shown) as book:
        package_name = _package_name(book)
        package = _xml(book, package_name)
        locked = _locked(book)
        chapters = _spine(package, posixpath.dirname(package_name))
        document = Document(
            source.shown,
            (
                _chapter(book, name, f"{source.shown}:{number}", locked)
                for number, name in enumerate(chapters, 1)
            ),
            is_paged=True,
            meta=_notes(package),
        )
        yield from rows_of(document, source.unit or "page")


def _package_name(book: zipfile.ZipFile) -> str:
    for node in _xml(book, _CONTAINER).iter("{*}rootfile"):
        if path := node.get("full-path"):
            return str(path)
    raise DataError("it is no EPUB: its container names no package")


def _spine(package: Any, folder: str) -> list[str]:
    """Return the names of the files of the book's text, in order."""
    hrefs = {item.get("id"): item.get("href") for item in package.iter("{*}item")}
    found = [hrefs.get(item.get("idref")) for item in package.iter("{*}itemref")]
    return [posixpath.normpath(posixpath.join(folder, unquote(href))) for href in found if href]


def _notes(package: Any) -> Row:
    notes: Row = {}
    for name in ("title", "language"):
        node = next(package.iter(f"{{http://purl.org/dc/elements/1.1/}}{name}"), None)
        if node is not None and (text := " ".join("".join(node.itertext()).split())):
            notes[name] = text
    return notes


def _locked(book: zipfile.ZipFile) -> set[str]:
    """Return the names of the files that are encrypted, as by a shop."""
    if _ENCRYPTION not in book.namelist():
        return set()
    nodes = _xml(book, _ENCRYPTION).iter("{*}CipherReference")
    return {unquote(node.get("URI") or "") for node in nodes}


def _chapter(book: zipfile.ZipFile, name: str, where: str, locked: set[str]) -> str | Bad:
    def text() -> str:
        if name in locked:
            raise DataError("it is encrypted")
        return all_text(decoded(_content(book, name), name))

    return tried(text, where)


def _xml(book: zipfile.ZipFile, name: str) -> Any:
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        return etree.fromstring(_content(book, name), parser)
    except etree.XMLSyntaxError as error:
        raise DataError(f"it is no EPUB that can be read: {name}: {error}") from None


def _content(book: zipfile.ZipFile, name: str) -> bytes:
    try:
        if book.getinfo(name).file_size > MAX_RECORD_BYTES:
            raise DataError(f"{name}: {too_long()}")
        return book.read(name)
    except KeyError:
        raise DataError(f"it is no whole EPUB: it has no {name}") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError) as error:
        raise DataError(f"{name} in it cannot be read: {error}") from None
