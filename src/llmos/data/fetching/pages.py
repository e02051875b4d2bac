"""What a crawler makes of a page: its text by trafilatura, the links on it, and URLs in one form,
without what only tells one visitor from another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, urljoin, urlsplit, urlunsplit

from llmos.storage.parquet import check_packages

NEEDS = {"trafilatura": "trafilatura"}
HTML = frozenset({"text/html", "application/xhtml+xml"})
KINDS = HTML | {"text/plain"}
MAX_URL_CHARS = 1000
MAX_LINKS = 2000
"""Of a page that are looked at."""
MAX_SEGMENTS = 20
MAX_SAME_SEGMENTS = 2
"""How often a folder's name may be there in a path: more are links that lead into themselves."""
_VISITOR = re.compile(
    r"(utm_\w+|(php|asp\.?net_?|j)?sess(ion)?_?id|phpsessid|jsessionid|sid|fbclid|gclid|msclkid)",
    re.I,
)
"""Parameters of a query that tell who comes, and from where, not what is asked for."""
_SESSION = re.compile(r";jsessionid=[^/?]*", re.I)


@dataclass(frozen=True, slots=True)
class Site:
    """What a crawl keeps to: one host, by one scheme."""

    scheme: str
    netloc: str

    @classmethod
    def of(cls, url: str) -> Site:
        """Return the site of a URL in normal form."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.netloc)

    def own(self, url: str) -> str | None:
        """Return a URL in normal form as one of this site, None where it is of another. Both
        schemes are one site, asked by the one that the crawl began with."""
        parts = urlsplit(url)
        if parts.netloc != self.netloc:
            return None
        return urlunsplit(parts._replace(scheme=self.scheme))


@dataclass(frozen=True, slots=True)
class Page:
    """What a page holds. ``row`` is None where it has no text, or wishes not to be kept."""

    row: dict[str, Any] | None
    links: list[str] = field(default_factory=list)
    reason: str = ""


def normal(url: str) -> str | None:
    """Return a URL in the one form that is asked for; None for what is no page's: another scheme,
    too long, of a folder within itself again and again."""
    try:
        parts = urlsplit(url.strip())
        host, port = (parts.hostname or "").encode("idna").decode("ascii"), parts.port
    except (ValueError, UnicodeError):
        return None
    if parts.scheme.lower() not in ("http", "https") or not host or parts.username is not None:
        return None
    scheme = parts.scheme.lower()
    host = f"[{host}]" if ":" in host else host
    netloc = host if port in (None, 443 if scheme == "https" else 80) else f"{host}:{port}"
    path = quote(_SESSION.sub("", parts.path), safe="/%:@!$&'()*+,;=~") or "/"
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = parts.query
    if any(_VISITOR.fullmatch(name) for name, _ in pairs):
        kept = (pair for pair in query.split("&") if not _VISITOR.fullmatch(pair.partition("=")[0]))
        query = "&".join(kept)
    query = quote(query, safe="/%:@!$&'()*+,;=~?[]")
    found = urlunsplit((scheme, netloc, path, query, ""))
    segments = [segment for segment in path.split("/") if segment]
    is_maze = len(segments) > MAX_SEGMENTS or any(
        segments.count(one) > MAX_SAME_SEGMENTS for one in set(segments)
    )
    return None if is_maze or len(found) > MAX_URL_CHARS else found


def read(body: bytes, kind: str, charset: str, url: str, told: str) -> Page:
    """Return what a page holds.

    Args:
        kind: its media type, one of KINDS.
        charset: as its header names it, or empty.
        url: in normal form.
        told: what X-Robots-Tag says.
    """
    text = _decoded(body, charset)
    if kind not in HTML:
        return _page({"title": None, "date": None}, _text(text), url, [], told)
    check_packages(NEEDS)
    import lxml.etree
    from trafilatura import bare_extraction, load_html

    try:
        tree = load_html(text)
        found = (
            None
            if tree is None
            else bare_extraction(tree, url=url, include_comments=False, with_metadata=True)
        )
    except (ValueError, TypeError, RecursionError, AssertionError, lxml.etree.LxmlError) as error:
        return Page(None, [], f"not read: {type(error).__name__}")
    if tree is None:
        return Page(None, [], "not HTML")
    told = ",".join([told, *_meta(tree)]).lower()
    links = [] if re.search(r"\b(nofollow|none)\b", told) else _links(tree, url)
    about = {"title": getattr(found, "title", None), "date": getattr(found, "date", None)}
    return _page(about, (getattr(found, "text", None) or "").strip(), url, links, told)


def _page(about: dict[str, Any], text: str, url: str, links: list[str], told: str) -> Page:
    if re.search(r"\b(noindex|none)\b", told.lower()):
        return Page(None, links, "it asks not to be kept (noindex)")
    if not text:
        return Page(None, links, "no text")
    row = {"id": url, "url": url, **about, "text": text}
    kept = {name: _unicode(value) for name, value in row.items() if isinstance(value, str)}
    return Page(kept, links)


def _decoded(body: bytes, charset: str) -> str | bytes:
    """Return a page as its header says it is written, as it is where that says nothing."""
    try:
        return body.decode(charset, "replace") if charset else body
    except (LookupError, ValueError):
        return body


def _text(body: str | bytes) -> str:
    text = body if isinstance(body, str) else body.decode("utf-8", "replace")
    return text.replace("\0", "").strip()


def _unicode(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _meta(tree: Any) -> list[str]:
    named = (one for one in tree.iter("meta") if one.get("name", "").lower() in ("robots", "llmos"))
    return [one.get("content", "") for one in named]


def _links(tree: Any, url: str) -> list[str]:
    """Return where a page's links lead, in normal form, in order, each once."""
    base = next((one.get("href") for one in tree.iter("base") if one.get("href")), url)
    found: dict[str, None] = {}
    for place, one in enumerate(tree.iter("a")):
        if place == MAX_LINKS:
            break
        target = one.get("href")
        if not target or "nofollow" in one.get("rel", "").lower():
            continue
        try:
            joined = normal(urljoin(urljoin(url, base), target))
        except ValueError:
            continue
        if joined is not None:
            found[joined] = None
    return list(found)
