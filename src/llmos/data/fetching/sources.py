"""Where a dataset's files may lie other than with whoever adds them, and what brings them here.

A job that fetches goes on after `kill -9`: what came whole is noted, and is not fetched again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.data.datasets.readers import format_of
from llmos.errors import DataError, InvalidRequestError
from llmos.library.lessons import READS
from llmos.library.refs import ModelRef
from llmos.security.outbound import MAX_URL_CHARS, parse_url
from llmos.storage.files import sync_directory, sync_file

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

FEEDBACK, ANSWERS = "feedback:", "answers:"
SAID = (FEEDBACK, ANSWERS)
"""How what only the server has is named, of a model: what its owner said of answers, and these."""
FETCHED = "fetched.json"
_HUB = re.compile(
    r"hf://(?:datasets/)?(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95})"
    r"(?:@(?P<revision>refs/(?:convert|pr)/[A-Za-z0-9._-]{1,64}|[A-Za-z0-9][A-Za-z0-9._-]{0,127}))?"
    r"(?P<parts>(?:/[^/\s]{1,200}){0,2})/?"
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


@dataclass(frozen=True, slots=True)
class HubSource:
    """A dataset of a hub. ``parts``: a configuration, a split, or both, as they were named."""

    repo: str
    revision: str
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BucketSource:
    """An object of a bucket, or all below a prefix that ends with a "/"."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was fetched.

    Attributes:
        files: what each is called -> the digest of its blob.
        origin: what a manifest says of where they are from.
    """

    files: dict[str, str]
    origin: dict[str, Any]


def check_source(url: str) -> str:
    """Return the URL of a source that can be added.

    Raises:
        InvalidRequestError: it is none.
    """
    if url.startswith(("http://", "https://")):
        parse_url(url)
    elif url.startswith("hf://"):
        hub_source(url)
    elif url.startswith("s3://"):
        bucket_source(url)
    elif url.startswith(SAID):
        model_named(url)
    else:
        raise InvalidRequestError(
            "url must begin with https://, http://, hf://OWNER/NAME, s3://BUCKET/, "
            "feedback:MODEL or answers:MODEL; databases are read by `llmos data add --sql`",
            param="url",
        )
    return url


def hub_source(url: str) -> HubSource:
    """Return what ``hf://OWNER/NAME[@REVISION][/CONFIGURATION][/SPLIT]`` names.

    Raises:
        InvalidRequestError: it is otherwise.
    """
    found = _HUB.fullmatch(url)
    if found is None or ".." in url or "--" in found["repo"]:
        raise InvalidRequestError(
            f"{url[:80]!a} must be hf://OWNER/NAME[@REVISION][/CONFIGURATION][/SPLIT]", param="url"
        )
    parts = tuple(part for part in found["parts"].split("/") if part)
    return HubSource(found["repo"], found["revision"] or "main", parts)


def bucket_source(url: str) -> BucketSource:
    """Return what ``s3://BUCKET/KEY`` names.

    Raises:
        InvalidRequestError: it is otherwise.
    """
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if len(url) > MAX_URL_CHARS or not _BUCKET.fullmatch(bucket) or not url.isprintable():
        raise InvalidRequestError(f"{url[:80]!a} must be s3://BUCKET/KEY", param="url")
    if ".." in PurePosixPath(key).parts or "//" in key or any(sign in key for sign in "*?[]"):
        raise InvalidRequestError(
            f"{url[:80]!a}: a key has no '..', '//', '*', '?' and brackets; a folder's ends with /",
            param="url",
        )
    return BucketSource(bucket, key)


def model_named(url: str) -> str:
    """Return the model, or its version, that ``feedback:MODEL`` or ``answers:MODEL`` names.

    Raises:
        InvalidRequestError, InvalidNameError: it names none, or an alias.
    """
    ref = ModelRef.parse(url.partition(":")[2])
    if ref.alias is not None:
        raise InvalidRequestError(
            f"{url[:200]} must name a model or a version, and an alias is neither", param="url"
        )
    return str(ref)


def check_reads(reads: Any) -> str:
    """Return what feedback is made into. Raises InvalidRequestError."""
    if reads not in (None, *READS):
        raise InvalidRequestError(f"reads must be one of {', '.join(READS)}", param="reads")
    return reads or READS[0]


def is_readable(name: str) -> bool:
    """Whether a file can be read as rows, by its name."""
    try:
        format_of(name)
    except DataError:
        return False
    return True


def without_secrets(url: str) -> str:
    """Return a URL as a manifest may tell it: what follows a "?" may be a signature."""
    return url.partition("?")[0]


def fetched(context: JobContext) -> dict[str, Any]:
    """Return what of a job's params depends on files that lie elsewhere, which are here then:
    ``{"files", "origin"}``; empty where there are none.

    Raises:
        ForbiddenAddressError: the address is not public.
        PermissionDeniedError: it may not be read.
        DataError, DatasetNotFoundError: it holds nothing that can be added.
        OutboundError, UnreachableError: it cannot be reached; worth another attempt.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room.
    """
    url = context.params.get("url")
    if not url or context.params["files"]:
        return {}
    noted = context.checkpoint_dir / FETCHED
    if noted.exists():
        known: dict[str, Any] = msgspec.json.decode(noted.read_bytes())
        if all(map(context.blobs.touch, known["files"].values())):  # else they were swept meanwhile
            return known
    context.checkpoint_dir.mkdir(parents=True, exist_ok=True)
    found = _fetch(context, url)
    done = {"files": found.files, "origin": found.origin}
    partial = noted.with_suffix(".tmp")
    partial.write_bytes(msgspec.json.encode(done))
    sync_file(partial)
    partial.rename(noted)
    sync_directory(noted.parent)
    return done


def _fetch(context: JobContext, url: str) -> Found:
    if "pages" in context.params:
        from llmos.data.fetching import crawling

        return crawling.fetch(context, url)
    if url.startswith("hf://"):
        from llmos.data.fetching import hub

        return hub.fetch(context, hub_source(url))
    if url.startswith("s3://"):
        from llmos.data.fetching import bucket

        return bucket.fetch(context, bucket_source(url))
    from llmos.data.fetching import web

    return web.fetch(context, url)
