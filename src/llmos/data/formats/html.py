"""Web pages: their main text by trafilatura, without menus and the like; of books, all text."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Any

from llmos.data.datasets.encodings import MARKS, SAMPLE_BYTES, check_encoding, detect
from llmos.data.datasets.readers import MAX_RECORD_BYTES, Bad, Source, too_long
from llmos.data.formats.documents import Document, rows_of, tried
from llmos.data.pipeline.record import Row
from llmos.errors import DataError

_DECLARED = re.compile(rb"<meta[^>]{0,300}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)
_DECLARED_BYTES = 4096
_AS_BROWSERS = {"gb2312": "gb18030", "gbk": "gb18030", "iso8859-1": "cp1252", "ascii": "cp1252"}
"""What pages call an encoding -> the larger one that they are in, as browsers take it."""
MAX_UNDECODABLE = 0.01
"""Of a page's characters."""
_BLOCK = re.compile(
    "address|article|aside|blockquote|br|caption|center|d[dlt]|div|figcaption|figure|footer|h[1-6r]|"
    "header|li|main|nav|ol|p|pre|section|table|tr|ul"
)
"""What stands on lines of its own."""
_DATES = {"extensive_search": False, "original_date": True, "max_date": "2100-01-01"}
"""Dates that a page states, not such as might be read out of its text; whatever today is."""


def html(source: Source) -> Iterator[Row | Bad]:
    """Yield the main text of a page, whole unless told, its title, url and date as notes."""
    if source.path.stat().st_size > MAX_RECORD_BYTES:
        yield Bad(source.shown, too_long())
        return
    text = decoded(source.path.read_bytes(), source.shown, source.encoding)
    page = tried(lambda: page_of(text, source.shown), source.shown)
    if isinstance(page, Bad):
        yield page
    else:
        yield from rows_of(page, source.unit or "document")


def page_of(text: str, where: str, url: str | None = None, fields: Row | None = None) -> Document:
    """Return the main text of a page, and what it says of itself.

    Args:
        url: where it comes from, where that is known.
        fields: of its rows, beside the text.
    """
    import trafilatura

    found: Any = trafilatura.bare_extraction(
        text,
        url=url,
        with_metadata=True,
        include_comments=False,
        date_extraction_params=dict(_DATES),
    )
    nothing = "it has no main text"
    if found is None:
        return Document(where, [], nothing=nothing)
    meta = {name: getattr(found, name) for name in ("title", "url", "date")}
    given = fields or {}
    kept = {name: value for name, value in meta.items() if value and name not in given}
    return Document(where, [found.text or ""], nothing=nothing, fields=given, meta=kept)


def decoded(data: bytes, shown: str, given: str | None = None, told: str | None = None) -> str:
    """Return the text of a page. Its encoding is as given, or by its byte-order mark, UTF-8 where
    it is that, as ``told`` (by HTTP), as it declares itself, else found out.

    Raises:
        DataError: it is binary, or much of it is not in that encoding.
    """
    encoding = given or next((name for mark, name in MARKS if data.startswith(mark)), None)
    if encoding is None:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            declared = _DECLARED.search(data[:_DECLARED_BYTES])
            own = declared[1].decode("ascii", "replace") if declared else None
            encoding = _known(told) or _known(own) or detect(data[:SAMPLE_BYTES], shown)
    text = data.decode(encoding, "replace")
    if text.count("\ufffd") > MAX_UNDECODABLE * len(text):
        raise DataError(f"more than {MAX_UNDECODABLE:.0%} of it is not {encoding}")
    return text


def _known(name: str | None) -> str | None:
    """Return the encoding that a page means, None where there is none of this name."""
    if not name:
        return None
    try:
        found = check_encoding(name)
    except DataError:
        return None
    found = codecs.lookup(found).name
    return _AS_BROWSERS.get(found, found)


def all_text(text: str) -> str:
    """Return all text of a page, a line for each of its blocks: for what is no web page, but a
    chapter. Raises what lxml does."""
    import lxml.etree
    import lxml.html

    parser = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True)
    body = lxml.html.document_fromstring(text.encode("utf-8", "replace"), parser=parser)
    lxml.etree.strip_elements(body, "head", "script", "style", "svg", "math", with_tail=False)
    for node in body.iter():
        node.text, node.tail = _flat(node.text), _flat(node.tail)
        if _BLOCK.fullmatch(str(node.tag)):
            node.text, node.tail = f"\n{node.text}", f"\n{node.tail}"
        elif node.tag in ("td", "th"):
            node.tail = f" {node.tail}"
    lines = "".join(body.itertext()).split("\n")
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def _flat(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "")
