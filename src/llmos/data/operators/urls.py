"""The operator that keeps one record of each page of the web, and what makes two addresses one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import Field

from llmos.data.pipeline.operator import KEY_BYTES, Comparer, Options
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_TRACKING = re.compile(
    r"utm_\w+|fbclid|gclid|dclid|msclkid|yclid|mc_[ce]id|igshid|spm|_ga|ref_src|phpsessid|jsessionid",
    re.IGNORECASE,
)
"""Parameters that say where a reader came from, or who it is, and not what is read."""
_INDEX = re.compile(r"/(?:index|default)\.(?:html?|php|aspx?)$", re.IGNORECASE)
_RESERVED = "/:@!$&'()*+,;=~%"


class UrlDedupOptions(Options):
    field: str = Field(
        default="url",
        min_length=1,
        description="which holds the address, in the record or its meta",
    )


class UrlDedup(Comparer[UrlDedupOptions]):
    """Drops records whose web address leads to the same page as that of one before, in the whole
    dataset.

    The same are http and https, with www. and without, with a fragment, a slash at the end or
    parameters of tracking (utm_source, gclid and the like) and without them, whatever the order of
    parameters and the case of the host.

    >>> urls = ["https://www.Example.org/a/?b=2&a=1#top", "http://example.org/a?a=1&b=2&utm_source=x"]
    >>> tried(UrlDedup(field="text"), *urls, "example.org/a")
    ['https://www.Example.org/a/?b=2&a=1#top', 'dropped: same page: as 1', 'example.org/a']
    >>> tried(UrlDedup(field="text"), "https://例子.中国/新闻", "http://xn--fsqu00a.xn--fiqs8s/%E6%96%B0%E9%97%BB")
    ['https://例子.中国/新闻', 'dropped: same page: as 1']
    """

    name = "url_dedup"
    options_type = UrlDedupOptions

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return a hash of the page's address. Raises DataError where there is none."""
        name = self.options.field
        url = record.fields.get(name, record.meta.get(name))
        if not isinstance(url, str):
            has = ", ".join(sorted({*record.fields, *record.meta})) or "nothing"
            raise DataError(
                f"there is no address in {self.options.field!r}, only {has}: set `field`"
            )
        encoded = canonical_url(url).encode("utf-8", "surrogatepass")
        return (hashlib.blake2b(encoded, digest_size=KEY_BYTES).digest(),)

    def reason(self, kept: str) -> str:
        """Return why a record goes."""
        return f"same page: as {kept}"


def canonical_url(url: str) -> str:
    """Return an address in the one form that all have which lead to the same page; of what is none
    the text without spaces around it.

    After RFC 3986, section 6.2, beyond which the scheme, www., a fragment, tracking parameters, the
    order of parameters, a last slash and an index page are taken not to matter.
    """
    text = url.strip()
    try:
        parts = urlsplit(text if _SCHEME.match(text) else f"http://{text}")
        host, port = _host(parts), parts.port
    except ValueError:
        return text
    if parts.scheme not in _DEFAULT_PORTS or not host:
        return text
    shown_port = "" if port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{port}"
    path = _INDEX.sub("/", quote(unquote(parts.path), safe=_RESERVED)).rstrip("/")
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    query = urlencode(sorted(pair for pair in pairs if not _TRACKING.fullmatch(pair[0])))
    return f"{host}{shown_port}{path}" + (f"?{query}" if query else "")


def _host(parts: SplitResult) -> str:
    """Return the host in lower case, as DNS has it, without www. Raises ValueError."""
    host = (parts.hostname or "").rstrip(".")
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    return host.removeprefix("www.")
