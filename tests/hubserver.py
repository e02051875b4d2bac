"""A local HTTP server that speaks the Hugging Face hub's API, with faults to order.

It serves repositories made of bytes: the model-info call with file metadata, the tree, the pull
requests, and resolve with HEAD, ranges and ETags. A test says which file breaks off or is damaged,
and what is answered.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

LFS_BYTES = 1000
"""Files from this size on are LFS files, listed with a SHA-256 as the hub does for large ones."""


@dataclass
class PullRequest:
    """A pull request, with the files its revision ``refs/pr/NUMBER`` has."""

    number: int
    title: str
    author: str
    files: dict[str, bytes]
    status: str = "open"


@dataclass
class Repository:
    """One repository at one commit; that of a dataset has a name that begins with "datasets/"."""

    files: dict[str, bytes]
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    private: bool = False
    pull_requests: list[PullRequest] = field(default_factory=list)

    @property
    def commit(self) -> str:
        names = json.dumps({name: git_id(data) for name, data in sorted(self.files.items())})
        return hashlib.sha1(names.encode()).hexdigest()

    def at(self, revision: str) -> Repository | None:
        """Return what it has at another revision, None for none."""
        return None


@dataclass
class Request:
    """One request that came in."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """The server's state: repositories by name, and the faults in force."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    token: str = "hf_right"
    break_after: dict[str, list[int]] = field(default_factory=dict)
    """File name -> for each coming download, the bytes sent before the connection is cut."""
    damage: dict[str, int] = field(default_factory=dict)
    """File name -> how many coming downloads have a flipped byte."""
    statuses: list[int] = field(default_factory=list)
    """Statuses that the coming requests are answered with, whatever they ask."""
    ignores_ranges: bool = False
    is_no_hub: bool = False
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def downloads(self, name: str) -> list[Request]:
        """Return the GETs of one file so far."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith("/" + name)]

    def add(self, repo: str, directory: Path) -> Repository:
        """Serve the files of a directory as ``repo``."""
        paths = [path for path in directory.rglob("*") if path.is_file()]
        files = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
        self.repositories[repo] = Repository(files)
        return self.repositories[repo]


def git_id(data: bytes) -> str:
    """Return the id git gives a blob."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a hub on a free loopback port; ``hub.url`` is its HF_ENDPOINT."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


_INFO = r"/api/(?:models/)?((?:datasets/)?[^/]+/[^/]+)(?:/revision/(.+))?"


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        """Serve a connection; a client may leave in the middle of an answer."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        headers = self.headers
        self.hub.requests.append(
            Request(self.command, path, headers["Range"], headers["Authorization"])
        )
        if self.hub.statuses:
            self._refuse(self.hub.statuses.pop(0))
        elif self.hub.is_no_hub:
            self._send(200, b"<html>please sign in to the hotel's network</html>")
        elif match := re.fullmatch(_INFO, path):
            self._info(match[1], match[2] or "main", with_files="blobs" in parse_qs(url.query))
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/discussions", path):
            self._discussions(match[1], parse_qs(url.query).get("author", [None])[0])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            self._tree(match[1], match[2])
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._refuse(404)

    def _find(self, repo: str, revision: str) -> Repository | None:
        """Return the repository, or answer as the hub does when it may not be had."""
        found = self.hub.repositories.get(repo)
        authorized = self.headers["Authorization"] == f"Bearer {self.hub.token}"
        if self.headers["Authorization"] and not authorized:
            self._refuse(401, message="Invalid credentials in Authorization header")
        elif found is None or (found.private and not authorized):
            self._refuse(401 if not authorized else 404, code="RepoNotFound")
        elif found.gated and not authorized:
            self._refuse(401, code="GatedRepo")
        elif revision in {*found.revisions, found.commit}:
            return found
        elif other := found.at(revision) or self._pull_request(found, revision):
            return other
        else:
            self._refuse(404, code="RevisionNotFound")
        return None

    def _pull_request(self, repository: Repository, revision: str) -> Repository | None:
        for request in repository.pull_requests:
            found = Repository(request.files)
            if revision in {f"refs/pr/{request.number}", found.commit}:
                return found
        return None

    def _discussions(self, repo: str, author: str | None) -> None:
        found = self._find(repo, "main")
        if found is None:
            return
        discussions = [
            {
                "title": request.title,
                "num": request.number,
                "author": {"name": request.author},
                "createdAt": "2024-01-01T00:00:00.000Z",
                "status": request.status,
                "repo": {"name": repo, "type": "model"},
                "isPullRequest": True,
            }
            for request in found.pull_requests
            if author in {None, request.author}
        ]
        page = {"discussions": discussions, "count": len(discussions), "start": 0}
        self._send(200, json.dumps(page).encode())

    def _info(self, repo: str, revision: str, *, with_files: bool) -> None:
        found = self._find(repo, revision)
        if found is None:
            return
        siblings = [self._sibling(name, data, with_files) for name, data in found.files.items()]
        info = {
            "id": repo.removeprefix("datasets/"),
            "sha": found.commit,
            "siblings": siblings,
            "gated": found.gated,
        }
        self._send(200, json.dumps(info).encode())

    def _sibling(self, name: str, data: bytes, with_files: bool) -> dict[str, object]:
        if not with_files:
            return {"rfilename": name}
        sibling: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git_id(data)}
        if len(data) >= LFS_BYTES:
            sha256 = hashlib.sha256(data).hexdigest()
            sibling["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
        return sibling

    def _tree(self, repo: str, revision: str) -> None:
        found = self._find(repo, revision)
        if found is not None:
            entries = [self._entry(name, data) for name, data in found.files.items()]
            self._send(200, json.dumps(entries).encode())

    def _entry(self, name: str, data: bytes) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(data)}
        entry["oid"] = git_id(data)
        if len(data) >= LFS_BYTES:
            sha256 = hashlib.sha256(data).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 134}
        return entry

    def _file(self, repo: str, revision: str, name: str) -> None:
        found = self._find(repo, revision)
        if found is None:
            return
        if name not in found.files:
            self._refuse(404, code="EntryNotFound")
            return
        data = found.files[name]
        etag = hashlib.sha256(data).hexdigest() if len(data) >= LFS_BYTES else git_id(data)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": found.commit, "Accept-Ranges": "bytes"}
        if self.command == "HEAD":
            self._send(200, data, headers)
            return
        self._send_part(name, data, headers)

    def _send_part(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        if self.hub.damage.get(name, 0) > 0:
            self.hub.damage[name] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=([0-9]+)-", self.headers["Range"] or "")
        if asked and not self.hub.ignores_ranges:
            start, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cuts = self.hub.break_after.get(name)
        self._send(status, data[start:], headers, cut=cuts.pop(0) if cuts else None)

    def _refuse(self, status: int, code: str = "", message: str = "") -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        cut: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None and cut < len(body):
            self.close_connection = True
