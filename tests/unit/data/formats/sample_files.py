"""Files of every format, made here: documents by their libraries, PDF and EPUB by hand."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import docx
import pypdf
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from llmos.data.datasets.readers import Bad, Source, format_of, read

LONG = " It was written to be read, and to be read again by machines that learn from it." * 4
PAGE = f"""<html><head><title>On rivers</title>
<link rel="canonical" href="https://rivers.example/on">
<meta property="article:published_time" content="2024-05-06"></head>
<body><nav><a href="/">Home</a><a href="/x">Menu</a></nav>
<article><h1>On rivers</h1><p>Rivers begin in hills.{LONG}</p>
<p>They end in seas.{LONG}</p></article>
<footer>Imprint</footer></body></html>"""


def rows_of(path: Path, content: bytes | str, **options: Any) -> list[Any]:
    """What is read of a file of this content, in this process."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(Source(path, path.name, format_of(path.name), **options)))


def bad(found: list[Any]) -> list[tuple[str, str]]:
    """Where and why of what is bad."""
    return [(one.where, one.reason) for one in found if isinstance(one, Bad)]


def pdf_of(*pages: str, title: str = "", password: str = "") -> bytes:
    """A PDF of one line a page, of Latin letters."""
    writer = pypdf.PdfWriter()
    for text in pages:
        page = writer.add_blank_page(300, 300)
        font = pypdf.generic.DictionaryObject(
            {
                pypdf.generic.NameObject(key): pypdf.generic.NameObject(value)
                for key, value in (
                    ("/Type", "/Font"),
                    ("/Subtype", "/Type1"),
                    ("/BaseFont", "/Helvetica"),
                )
            }
        )
        fonts = pypdf.generic.DictionaryObject({pypdf.generic.NameObject("/F1"): font})
        page[pypdf.generic.NameObject("/Resources")] = pypdf.generic.DictionaryObject(
            {pypdf.generic.NameObject("/Font"): fonts}
        )
        stream = pypdf.generic.DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[pypdf.generic.NameObject("/Contents")] = writer._add_object(stream)
    if title:
        writer.add_metadata({"/Title": title})
    if password:
        writer.encrypt(password, algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx_of(*blocks: str | Sequence[Sequence[str]], title: str = "") -> bytes:
    """A Word document of paragraphs and tables."""
    document = docx.Document()
    document.core_properties.title = title
    for block in blocks:
        if isinstance(block, str):
            document.add_paragraph(block)
            continue
        table = document.add_table(len(block), len(block[0]))
        for row, cells in zip(table.rows, block, strict=True):
            for cell, text in zip(row.cells, cells, strict=True):
                cell.text = text
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def zip_of(files: Mapping[str, bytes | str], *more: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    """A zip archive of files, and of others with headers of their own."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for info, content in more:
            archive.writestr(info, content)
    return out.getvalue()


def epub_of(*chapters: str, title: str = "A book", **more: bytes | str) -> bytes:
    """A book of chapters, which lie in another order than they are read."""
    items = "".join(
        f'<item id="c{n}" href="text/ch%20{n}.xhtml" media-type="application/xhtml+xml"/>'
        for n in reversed(range(len(chapters)))
    )
    spine = "".join(f'<itemref idref="c{n}"/>' for n in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0">'
        f'<metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>{title}</dc:title>'
        "<dc:language>zh</dc:language></metadata>"
        f"<manifest>{items}</manifest><spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
        '<rootfiles><rootfile full-path="OEBPS/content.opf"/></rootfiles></container>'
    )
    files: dict[str, bytes | str] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": container,
        "OEBPS/content.opf": package,
    }
    for number, body in reversed(list(enumerate(chapters))):
        page = f"<html><head><title>skip</title></head><body>{body}</body></html>"
        files[f"OEBPS/text/ch {number}.xhtml"] = f'<?xml version="1.0" encoding="UTF-8"?>{page}'
    return zip_of(files | more)


def warc_of(*records: tuple[str, str, str, bytes], gzip: bool = True) -> bytes:
    """A WARC of responses: url, status, content type, body; a request before each."""
    out = io.BytesIO()
    writer = WARCWriter(out, gzip=gzip)
    for url, status, kind, body in records:
        asked = StatusAndHeaders("GET / HTTP/1.1", [], is_http_request=True)
        headers = {"WARC-Date": "2026-01-02T03:04:05Z"}
        writer.write_record(
            writer.create_warc_record(
                url, "request", http_headers=asked, warc_headers_dict=dict(headers)
            )
        )
        answered = StatusAndHeaders(status, [("Content-Type", kind)], protocol="HTTP/1.1")
        writer.write_record(
            writer.create_warc_record(
                url,
                "response",
                payload=io.BytesIO(body),
                length=len(body),
                http_headers=answered,
                warc_headers_dict=dict(headers),
            )
        )
    return out.getvalue()
