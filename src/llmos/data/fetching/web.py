"""One file of the web, fetched through the outbound client. A transfer that breaks off, or whose
job is killed, goes on where it ended if the server tells one version of the file from another.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import httpx
import msgspec

from llmos.data.datasets.readers import format_of
from llmos.data.fetching.sources import Found, is_readable, without_secrets
from llmos.data.pipeline.work import give_way
from llmos.errors import DataError, DiskFullError, OutboundError
from llmos.kernel.ledger import format_bytes
from llmos.security.outbound import Outbound, Received
from llmos.settings import load_settings

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

AGENT = "llmos (+https://github.com/llmos/llmos)"
PART, TAG = "fetched.part", "fetched.tag"
MAX_NAME_CHARS = 200
SLOW_BYTES, SLOW_S = 2**16, 60.0
"""A server that sends less in so long is given up."""
SUFFIXES = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "text/html": ".html",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "application/pdf": ".pdf",
    "application/epub+zip": ".epub",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
    "application/zip": ".zip",
}
"""What a file of a type is called that does not tell by its name."""


class Tag(msgspec.Struct):
    """What a part of a file is of: a version that the server can name, or none (empty)."""

    version: str
    shown: str


@dataclass(slots=True)
class Pace:
    """How fast a server sends."""

    waited_s: float = 0.0
    received: int = 0

    def is_slow(self, waited_s: float, num_bytes: int) -> bool:
        """Whether it sends too slowly, after another wait, for so many bytes."""
        self.waited_s += waited_s
        self.received += num_bytes
        if self.waited_s < SLOW_S:
            return False
        is_slow = self.received < SLOW_BYTES
        self.waited_s, self.received = 0.0, 0
        return is_slow


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file to fetch.

    Attributes:
        given: the format that its user says it has, if any.
        limit_bytes: beyond which it is not taken.
        part: where it is collected across attempts.
        tag: what that is of.
    """

    url: str
    given: str | None
    limit_bytes: int
    part: Path
    tag: Path

    @property
    def shown(self) -> str:
        return without_secrets(self.url)

    def held(self) -> int:
        """Return how many bytes are there."""
        return self.part.stat().st_size if self.part.exists() else 0


def fetch(context: JobContext, url: str) -> Found:
    """Fetch a file and store it. For what is raised see `sources.fetched`."""
    settings = load_settings({"home": context.home})
    outbound = Outbound(allow_private=settings.allow_private_webhooks)
    part, tag = context.checkpoint_dir / PART, context.checkpoint_dir / TAG
    given = context.params["format"]
    transfer = Transfer(url, given, settings.max_upload_bytes, part, tag)
    name = asyncio.run(bring(context, outbound, transfer))
    file = context.blobs.put_file(part, link=True)
    part.unlink()
    context.log(f"{name}: {format_bytes(file.size)} from {transfer.shown}")
    return Found({name: file.digest}, {"url": transfer.shown})


async def bring(context: JobContext, outbound: Outbound, transfer: Transfer) -> str:
    """Bring ``transfer.part`` to its end and return what the file is called.

    Raises:
        OutboundError: a try brought nothing more than the one before.
        DataError, DiskFullError, ForbiddenAddressError: it is not to be had.
    """
    most = 0
    try:
        while True:
            try:
                return await _receive(context, outbound, transfer)
            except OutboundError as error:
                if transfer.held() <= most:
                    raise
                most = transfer.held()
                context.log(f"the connection broke off at {format_bytes(most)}: {error.message}")
    finally:
        await outbound.close()


async def _receive(context: JobContext, outbound: Outbound, transfer: Transfer) -> str:
    headers = {"User-Agent": AGENT, "Accept": "*/*"}
    held, tag = transfer.held(), _tag(transfer)
    if held and tag.version:
        headers |= {"Range": f"bytes={held}-", "If-Range": tag.version}
    async with outbound.follow(transfer.url, headers) as received:
        _check(received, transfer)
        goes_on = received.status == 206
        if goes_on and not received.headers.get("content-range", "").startswith(f"bytes {held}-"):
            transfer.part.unlink(missing_ok=True)
            raise OutboundError(f"{transfer.shown} was answered with another part of it")
        if not goes_on:
            tag = Tag(_version(received.headers), _name(received, transfer))
            transfer.part.unlink(missing_ok=True)
            transfer.tag.write_bytes(msgspec.json.encode(tag))
            held = 0
        total = _total(received, transfer, held)
        pace, asked = Pace(), time.monotonic()
        with transfer.part.open("ab") as file:
            async for chunk in received.parts:
                if pace.is_slow(time.monotonic() - asked, len(chunk)):
                    raise DataError(
                        f"{transfer.shown} is sent too slowly, under {SLOW_BYTES // 1024} KB in "
                        f"{SLOW_S:g} s: fetch the file yourself and add it",
                        param="url",
                    )
                give_way(context)
                held += len(chunk)
                if held > transfer.limit_bytes:
                    raise _too_large(transfer, held)
                file.write(chunk)
                context.progress(held, max(total, held + 1), tag.shown)
                asked = time.monotonic()
        if total and held != total:
            raise OutboundError(f"{transfer.shown} ended at {held} of {total} bytes")
    return tag.shown


def _tag(transfer: Transfer) -> Tag:
    try:
        return msgspec.json.decode(transfer.tag.read_bytes(), type=Tag)
    except (FileNotFoundError, msgspec.DecodeError):  # none, or half written
        return Tag("", "")


def _version(headers: Mapping[str, str]) -> str:
    """Return what names this version of a file for If-Range, empty where nothing does."""
    tag = headers.get("etag", "")
    return headers.get("last-modified", "") if not tag or tag.startswith("W/") else tag


def _check(received: Received, transfer: Transfer) -> None:
    """Raise what the status of an answer means, unless it is a file."""
    status, shown = received.status, transfer.shown
    if status in (200, 206):
        return
    if status == 416:  # what is held is no beginning of it
        transfer.part.unlink(missing_ok=True)
        transfer.tag.unlink(missing_ok=True)
        raise OutboundError(f"{shown} is otherwise than it was: it is fetched anew")
    if status in (401, 403):
        raise DataError(
            f"{shown} may not be read (HTTP {status}): llmos sends no password. Fetch the file "
            "yourself and add it",
            param="url",
        )
    if status in (404, 410):
        raise DataError(f"{shown} does not exist (HTTP {status})", param="url")
    if status in (408, 425, 429) or status >= 500:
        raise OutboundError(f"{shown} cannot be had now (HTTP {status})")
    raise DataError(f"{shown} is no file: it is answered with HTTP {status}", param="url")


def _total(received: Received, transfer: Transfer, held: int) -> int:
    """Return how many bytes the whole file has, 0 where that is not told."""
    told = received.headers.get("content-length", "")
    if not told.isdecimal():
        return 0
    total = held + int(told)
    if total > transfer.limit_bytes:
        raise _too_large(transfer, total)
    free = shutil.disk_usage(transfer.part.parent).free
    if int(told) > free:
        raise DiskFullError(
            f"{transfer.shown} needs {format_bytes(int(told))} more and the disk has "
            f"{format_bytes(free)}: free some space (`llmos gc` may help), then try again"
        )
    return total


def _too_large(transfer: Transfer, num_bytes: int) -> DataError:
    return DataError(
        f"{transfer.shown} has {format_bytes(num_bytes)} or more, over the limit of "
        f"{format_bytes(transfer.limit_bytes)} (max_upload_bytes)",
        param="url",
    )


def _name(received: Received, transfer: Transfer) -> str:
    """Return what a file is called, so that its format is known.

    Raises:
        DataError: nothing tells what it holds, or it is compressed on its way.
    """
    headers = received.headers
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    name = file_name(transfer.url, headers, kind, transfer.given)
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity" and not name.endswith(".gz"):
        raise DataError(
            f"{transfer.shown} is sent compressed ({coding[:20]}), though that was not asked for: "
            "fetch the file yourself and add it",
            param="url",
        )
    format_of(name, transfer.given)
    return name


def file_name(url: str, headers: httpx.Headers | dict[str, Any], kind: str, given: Any) -> str:
    """Return a plain file name: the one that the server gives, else the URL's, with the suffix of
    its type where it has none that is known."""
    message = Message()
    message["Content-Disposition"] = headers.get("content-disposition", "")
    path = message.get_filename() or unquote(urlsplit(url).path)
    plain = "".join(sign for sign in path.replace("\\", "/") if sign.isprintable())
    name = PurePosixPath(plain).name[-MAX_NAME_CHARS:].lstrip(".") or "file"
    suffix = SUFFIXES.get(kind, "")
    is_known = given is not None or is_readable(name)
    return name if is_known or not is_readable(name + suffix) else name + suffix
