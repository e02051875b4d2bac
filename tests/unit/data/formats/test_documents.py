"""Documents of every format become rows: a page, a paragraph, a line or the whole; what cannot be
read of one is said.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.formats.sample_files import (
    LONG,
    PAGE,
    bad,
    docx_of,
    epub_of,
    pdf_of,
    rows_of,
    warc_of,
    zip_of,
)

from llmos.data.datasets.readers import Bad, Source, read
from llmos.data.formats import documents, html
from llmos.data.formats.documents import Document
from llmos.errors import DataError


def test_a_page_is_its_main_text_with_its_title_url_and_date(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path / "a.html", PAGE)
    assert row["id"] == "a.html"
    assert "Rivers begin in hills." in row["text"] and "They end in seas." in row["text"]
    assert "Menu" not in row["text"] and "Imprint" not in row["text"]
    assert row["meta"] == {
        "title": "On rivers",
        "url": "https://rivers.example/on",
        "date": "2024-05-06",
    }
    cut = rows_of(tmp_path / "a.html", PAGE, unit="paragraph")
    assert [row["id"] for row in cut] == [f"a.html:{n}" for n in range(1, len(cut) + 1)]
    assert cut[-1]["text"].startswith("They end in seas.") and cut[-1]["meta"] == row["meta"]


@pytest.mark.parametrize(
    ("declared", "encoding"),
    [("gb2312", "gb18030"), ("big5", "big5"), ("utf-8", "utf-8"), ("", "gb18030"), ("", "utf-16")],
)
def test_a_chinese_page_is_decoded_as_it_declares_itself_or_as_it_is(
    declared: str, encoding: str, tmp_path: Path
) -> None:
    essay = "模型可以從文字中學習，並且用中文回答問題。資料需要清理，也需要去除重複。" * 10
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={declared}">'
    head = f"{meta if declared else ''}<title>中文</title>"
    page = f"<html><head>{head}</head><body><article><p>{essay}</p></article></body></html>"
    (row,) = rows_of(tmp_path / "a.html", page.encode(encoding))
    assert row["text"] == essay and row["meta"]["title"] == "中文"


def test_what_is_no_page_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = rows_of(tmp_path / "a.html", "")
    assert bad([found]) == [("a.html", "it has no main text")]
    with pytest.raises(DataError, match="is a PDF, not text"):
        rows_of(tmp_path / "a.html", b"%PDF-1.7 \xff\xfe")
    with pytest.raises(DataError, match="more than 1% of it is not utf-8"):
        html.decoded(b"\xe4\xbd\xa0\xff\xff\xff" * 50, "a.html", "utf-8")
    monkeypatch.setattr(html, "MAX_RECORD_BYTES", 10)
    (found,) = rows_of(tmp_path / "a.html", PAGE)
    assert "longer than a row may be" in found.reason


def test_a_pdf_is_read_by_pages_or_whole(tmp_path: Path) -> None:
    content = pdf_of("First page.", "", "Third page.", title="Three pages")
    assert rows_of(tmp_path / "a.pdf", content) == [
        {"id": "a.pdf:1", "text": "First page.", "meta": {"title": "Three pages", "page": 1}},
        {"id": "a.pdf:3", "text": "Third page.", "meta": {"title": "Three pages", "page": 3}},
    ]
    assert rows_of(tmp_path / "a.pdf", content, unit="document") == [
        {"id": "a.pdf", "text": "First page.\n\nThird page.", "meta": {"title": "Three pages"}}
    ]


def test_a_pdf_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="it is encrypted: save it without its password"):
        rows_of(tmp_path / "a.pdf", pdf_of("Secret.", password="x"))
    with pytest.raises(DataError, match="no PDF that can be read"):
        rows_of(tmp_path / "a.pdf", b"%PDF-1.7 not really")
    found = rows_of(tmp_path / "a.pdf", pdf_of("", ""))
    assert bad(found) == [("a.pdf", "it has no text: pictures of pages are not read")]


def test_an_encrypted_pdf_that_opens_without_a_password_is_read(tmp_path: Path) -> None:
    import io

    import pypdf

    writer = pypdf.PdfWriter(io.BytesIO(pdf_of("Open to all.")))
    writer.encrypt("", owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    (row,) = rows_of(tmp_path / "a.pdf", out.getvalue())
    assert row["text"] == "Open to all."


def test_a_page_of_a_pdf_that_is_broken_is_bad_and_the_others_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pypdf import PageObject

    extract = PageObject.extract_text

    def broken(page: Any) -> str:
        text = extract(page)
        if "Two" in text:
            raise RecursionError("too deep")
        return f"{text}\ud83d\ude00\ud83d"  # the halves of a character, and one alone

    monkeypatch.setattr(PageObject, "extract_text", broken)
    found = rows_of(tmp_path / "a.pdf", pdf_of("One", "Two", "Three"))
    assert [row["text"] for row in found if isinstance(row, dict)] == [
        "One😀\ufffd",
        "Three😀\ufffd",
    ]
    assert bad(found) == [("a.pdf:2", "it cannot be read: RecursionError: too deep")]
    found = rows_of(tmp_path / "a.pdf", pdf_of("One", "Two"), unit="document")
    assert [one.where for one in found] == ["a.pdf:2"], "half a document is none"


def test_a_word_document_is_its_paragraphs_and_tables_in_order(tmp_path: Path) -> None:
    table = [["Name", "Ort"], ["小明", "北京"]]
    content = docx_of("First.", table, "", "Last  one.", title="Letters")
    (row,) = rows_of(tmp_path / "a.docx", content)
    assert row == {
        "id": "a.docx",
        "text": "First.\nName | Ort\n小明 | 北京\nLast one.",
        "meta": {"title": "Letters"},
    }
    lines = rows_of(tmp_path / "a.docx", content, unit="paragraph")
    assert [one["text"] for one in lines] == row["text"].split("\n")


def test_what_is_no_word_document_is_said(tmp_path: Path) -> None:
    for content, said in (
        (b"not a zip", "no zip file"),
        (b"\xd0\xcf\x11\xe0 old or encrypted", "it is encrypted, or of an old format"),
        (zip_of({"a.txt": "x"}), "no Word document that can be read"),
    ):
        with pytest.raises(DataError, match=said):
            rows_of(tmp_path / "a.docx", content)
    assert bad(rows_of(tmp_path / "a.docx", docx_of())) == [("a.docx", "it has no text")]


def test_a_book_is_its_chapters_in_the_order_of_its_spine(tmp_path: Path) -> None:
    book = epub_of(
        "<h1>一</h1><p>First\n  chapter,&nbsp;<b>bo</b>ld.</p><script>no()</script>",
        "<p>Second.</p><table><tr><td>a</td><td>b</td></tr></table>",
    )
    assert rows_of(tmp_path / "a.epub", book) == [
        {
            "id": "a.epub:1",
            "text": "一\nFirst chapter, bold.",
            "meta": {"title": "A book", "language": "zh", "page": 1},
        },
        {
            "id": "a.epub:2",
            "text": "Second.\na b",
            "meta": {"title": "A book", "language": "zh", "page": 2},
        },
    ]
    (row,) = rows_of(tmp_path / "a.epub", book, unit="document")
    assert row["text"] == "一\nFirst chapter, bold.\n\nSecond.\na b"


def test_a_book_that_is_encrypted_or_broken_is_said(tmp_path: Path) -> None:
    locked = (
        '<encryption xmlns:e="http://www.w3.org/2001/04/xmlenc#"><e:CipherData>'
        '<e:CipherReference URI="OEBPS/text/ch%200.xhtml"/></e:CipherData></encryption>'
    )
    found = rows_of(
        tmp_path / "a.epub", epub_of("<p>x</p>", "<p>y</p>", **{"META-INF/encryption.xml": locked})
    )
    assert bad(found) == [("a.epub:1", "it is encrypted")] and found[1]["text"] == "y"
    for content, said in (
        (zip_of({"a": ""}), "it has no META-INF/container.xml"),
        (zip_of({"META-INF/container.xml": "<container/>"}), "names no package"),
        (zip_of({"META-INF/container.xml": "<container"}), "no EPUB that can be read"),
    ):
        with pytest.raises(DataError, match=said):
            rows_of(tmp_path / "a.epub", content)


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE c [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    path = "OEBPS/&b;.opf"
    container = f'{bomb}<container><rootfile full-path="x"/>{path}</container>'
    with pytest.raises(DataError, match="it has no x"):
        rows_of(tmp_path / "a.epub", zip_of({"META-INF/container.xml": container}))
    outside = '<!DOCTYPE c [<!ENTITY a SYSTEM "file:///etc/passwd">]><container>&a;</container>'
    with pytest.raises(DataError, match="names no package"):
        rows_of(tmp_path / "a.epub", zip_of({"META-INF/container.xml": outside}))


@pytest.mark.parametrize("gzip", [True, False])
def test_pages_among_the_responses_of_a_crawl_become_rows(gzip: bool, tmp_path: Path) -> None:
    chinese = (
        f"<html><body><article><p>{'河流从山里开始，流向大海。' * 20}</p></article></body></html>"
    )
    content = warc_of(
        ("https://a.example/1", "200 OK", "text/html; charset=utf-8", PAGE.encode()),
        ("https://a.example/2", "200 OK", "image/png", b"\x89PNG"),
        ("https://a.example/3", "404 Not Found", "text/html", PAGE.encode()),
        ("https://a.example/4", "200 OK", "text/html; charset=GBK", chinese.encode("gbk")),
        ("https://a.example/5", "200 OK", "text/html", b"<html><body></body></html>"),
        gzip=gzip,
    )
    found = rows_of(tmp_path / ("a.warc.gz" if gzip else "a.warc"), content)
    name = "a.warc.gz" if gzip else "a.warc"
    rows = [one for one in found if isinstance(one, dict)]
    assert [row["id"] for row in rows] == [f"{name}:2", f"{name}:8"]
    assert rows[0]["url"] == "https://a.example/1" and rows[0]["date"] == "2026-01-02T03:04:05Z"
    assert rows[0]["meta"] == {"title": "On rivers"} and "Rivers begin" in rows[0]["text"]
    assert rows[1]["text"].startswith("河流从山里开始")
    assert bad(found) == [(f"{name}:10", "it has no main text")]


def test_a_crawl_that_breaks_off_is_read_up_to_there(tmp_path: Path) -> None:
    page = ("https://a.example/1", "200 OK", "text/html", PAGE.encode())
    content = warc_of(page, gzip=False) + b"no record at all\r\n\r\n"
    found = rows_of(tmp_path / "a.warc", content)
    assert isinstance(found[0], dict)
    assert [one.where for one in found[1:]] == ["a.warc:3"] and "from here on" in found[1].reason


def test_a_document_that_is_too_large_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MAX_RECORD_BYTES", 100)
    document = Document("a", ["x" * 60, "y" * 60], is_paged=True)
    (whole,) = documents.rows_of(document, "document")
    assert isinstance(whole, Bad) and "longer than a row may be" in whole.reason
    assert len(list(documents.rows_of(document, "page"))) == 2
    monkeypatch.setattr(documents, "MAX_DOCUMENT_BYTES", 100)
    with pytest.raises(DataError, match="larger than a document may be"):
        rows_of(tmp_path / "a.pdf", pdf_of(LONG))


def test_a_small_document_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("word/document.xml", "w", force_zip64=True) as out,
    ):
        for _ in range(300):
            out.write(bytes(2**20))
    assert path.stat().st_size < 2**20
    with pytest.raises(DataError, match="200 times its size, as a zip bomb does"):
        list(read(Source(path, "a.docx", "docx")))
