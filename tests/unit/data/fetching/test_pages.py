"""Pages read, and URLs brought to one form."""

from __future__ import annotations

import pytest
from tests.siteserver import page

from llmos.data.fetching.crawling import media_type
from llmos.data.fetching.pages import Site, normal, read

URL = "https://x.example/a/page.html"
TEXT = "A sentence that is long enough to be kept as the text of a page, and another one. " * 3


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("HTTPS://X.Example:443", "https://x.example/"),
        ("http://x.example:8080/a#part", "http://x.example:8080/a"),
        ("https://x.example/a b/目?q=目", "https://x.example/a%20b/%E7%9B%AE?q=%E7%9B%AE"),
        ("https://bücher.example/", "https://xn--bcher-kva.example/"),
        ("https://x.example/a;jsessionid=1F?PHPSESSID=3&a=1", "https://x.example/a?a=1"),
        ("https://x.example/?utm_source=x&b=&sid=4&a=%20", "https://x.example/?b=&a=%20"),
        ("https://x.example/?session_id=3", "https://x.example/"),
        ("mailto:a@x.example", None),
        ("javascript:void(0)", None),
        ("https://user:secret@x.example/", None),
        ("https:///nothing", None),
        ("https://x.example:99999/", None),
        ("https://[broken/", None),
        ("https://x.example/" + "a" * 1000, None),
        ("https://x.example/a/b/a/b/a/b", None),
        ("https://x.example/" + "/".join(map(str, range(30))), None),
    ],
)
def test_a_url_has_one_form(url: str, found: str | None) -> None:
    assert normal(url) == found
    assert found is None or normal(found) == found


def test_a_site_is_a_host_by_either_scheme() -> None:
    site = Site.of("https://x.example/a")
    assert site.own("http://x.example/b?c") == "https://x.example/b?c"
    assert site.own("https://y.example/") is None and site.own("https://x.example:8443/") is None


def read_html(body: bytes, charset: str = "", told: str = "") -> object:
    return read(body, "text/html", charset, URL, told)


def test_a_page_has_text_title_date_and_links() -> None:
    head = '<meta property="article:published_time" content="2024-03-05T10:00:00Z">'
    links = ["/b", "c.html#x", "https://x.example/b", "//y.example/", "mailto:x@y.example", ""]
    found = read(page("A title", TEXT, links, head), "text/html", "utf-8", URL, "")
    assert found.row is not None
    assert found.row["id"] == found.row["url"] == URL
    assert found.row["title"] == "A title" and found.row["date"] == "2024-03-05"
    assert TEXT.strip() in found.row["text"] and "y.example" not in found.row["text"]
    assert found.links == [
        "https://x.example/b", "https://x.example/a/c.html", "https://y.example/",
    ]  # fmt: skip


def test_chinese_pages_are_read_as_their_header_says_and_else_as_they_are_written() -> None:
    text = "这是一个足够长的段落，用来检查网页的编码是否能被正确地识别出来。" * 4
    body = page("标题", text, [])
    written = body.decode().encode("gb18030")
    for found in (
        read(written, "text/html", "gb18030", URL, ""),
        read(written, "text/html", "", URL, ""),
        read(body, "text/html", "", URL, ""),
        read(body, "text/html", "no-such-charset", URL, ""),
    ):
        assert found.row is not None and text in found.row["text"], found


def test_a_page_that_wishes_not_to_be_kept_or_followed_is_not() -> None:
    def meta(content: str) -> bytes:
        return page("T", TEXT, ["/b"], f'<meta name="Robots" content="{content}">')

    hidden = read(meta("NOINDEX"), "text/html", "", URL, "")
    assert hidden.row is None and "noindex" in hidden.reason and hidden.links
    still = read(meta("index, nofollow"), "text/html", "", URL, "")
    assert still.row is not None and still.links == []
    neither = read(page("T", TEXT, ["/b"]), "text/html", "", URL, "none")
    assert neither.row is None and neither.links == []
    one = page("T", TEXT, ["/b"]).replace(b'<a href="/b"', b'<a rel="nofollow" href="/b"')
    assert read(one, "text/html", "", URL, "").links == []


def test_links_are_those_of_the_base() -> None:
    body = page("T", TEXT, ["b"], '<base href="/deep/er/">')
    assert read(body, "text/html", "", URL, "").links == ["https://x.example/deep/er/b"]


def test_plain_text_is_a_page_without_links() -> None:
    found = read("一段\0文字\n".encode(), "text/plain", "", URL, "")
    assert found.row == {"id": URL, "url": URL, "text": "一段文字"} and found.links == []


@pytest.mark.parametrize(
    "body", [b"", b"\0\1\2", b"<html></html>", b"<" * 5000, b"<div>" * 5000, b"\xff\xfe" * 50]
)
def test_what_is_no_page_gives_no_row_and_no_error(body: bytes) -> None:
    found = read(body, "text/html", "", URL, "")
    assert found.row is None and found.reason


def test_half_characters_do_not_come_through() -> None:
    found = read(page("T", TEXT + "&#xD800; end", []), "text/html", "", URL, "")
    assert found.row is not None
    found.row["text"].encode()


@pytest.mark.parametrize(
    ("header", "kind", "charset"),
    [
        ("text/html; charset=GB2312", "text/html", "gb2312"),
        ('Text/HTML;charset="utf-8"', "text/html", "utf-8"),
        ("", "application/octet-stream", ""),
        ("nonsense", "text/plain", ""),
    ],
)
def test_a_content_type_is_a_type_and_a_charset(header: str, kind: str, charset: str) -> None:
    assert media_type(header) == (kind, charset)
