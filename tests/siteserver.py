"""A web site on a loopback port: pages of bytes, and what else a test orders it to answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HTML = "text/html; charset=utf-8"


@dataclass
class Reply:
    """An answer.

    Attributes:
        cut: bytes of the body after which the connection is closed, though more were announced.
    """

    body: bytes = b""
    status: int = 200
    kind: str = HTML
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None


@dataclass
class Request:
    """A request that came in."""

    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """What is answered, by path; `other` answers the rest."""

    pages: dict[str, Reply | Callable[[Request], Reply]] = field(default_factory=dict)
    other: Callable[[Request], Reply] = lambda _: Reply(b"nothing here", 404)
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def page(self, path: str, title: str, text: str, links: list[str], head: str = "") -> None:
        """Add a page of HTML."""
        self.pages[path] = Reply(page(title, text, links, head))

    def asked(self) -> list[str]:
        """Return the paths that were asked for, but for robots.txt."""
        return [one.path for one in self.requests if one.path != "/robots.txt"]


def page(title: str, text: str, links: list[str], head: str = "") -> bytes:
    """Return a page with a text and links."""
    anchors = "".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    body = f"<article><h1>{title}</h1><p>{text}</p></article><nav><ul>{anchors}</ul></nav>"
    start = f"<!DOCTYPE html><html><head><title>{title}</title>{head}</head>"
    return f"{start}<body>{body}</body></html>".encode()


@contextlib.contextmanager
def running_site() -> Iterator[Site]:
    """Serve a site; ``site.url`` is where, without a slash at its end."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    site: Site
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Serve a connection; a client may leave in the middle of an answer."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()})
        self.site.requests.append(request)
        found = self.site.pages.get(self.path, self.site.other)
        reply = found if isinstance(found, Reply) else found(request)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", reply.kind)
        if "Transfer-Encoding" not in reply.headers:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body if reply.cut is None else reply.body[: reply.cut])
        if reply.cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""
