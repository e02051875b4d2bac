"""Objects of an S3 bucket, read by s3fs with the server's own credentials, and so only those of
buckets that whoever runs the server has named (`s3_buckets`). The region, the endpoint and the
credentials are AWS's own settings: AWS_REGION, AWS_ENDPOINT_URL_S3, AWS_ACCESS_KEY_ID, a role, ….
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from llmos.data.fetching.sources import BucketSource, Found, is_readable
from llmos.data.pipeline.work import give_way
from llmos.errors import DataError, DiskFullError, OutboundError, PermissionDeniedError
from llmos.kernel.ledger import format_bytes
from llmos.sdk.dataset_layout import is_hidden
from llmos.settings import load_settings
from llmos.storage.parquet import check_packages

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

NEEDS = {"s3fs": "s3fs"}
PIECE_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class Remote:
    """An object: ``path`` is BUCKET/KEY, ``version`` its ETag."""

    path: str
    shown: str
    size: int
    version: str


def fetch(context: JobContext, source: BucketSource) -> Found:
    """Fetch an object, or all files of rows below a prefix, and store them. For what is raised see
    `sources.fetched`."""
    settings = load_settings({"home": context.home})
    check_allowed(settings.s3_buckets, source)
    check_packages(NEEDS)
    import s3fs

    files = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    objects = _objects(files, source, context.params["format"])
    _check_sizes(context, objects, settings.max_upload_bytes)
    total = sum(one.size for one in objects)
    done, digests = 0, {}
    for one in objects:
        digests[one.shown] = _stored(context, files, one, done, total)
        done += one.size
    context.log(f"{len(objects):,} objects, {format_bytes(total)}, of s3://{source.bucket}")
    return Found(digests, {"url": f"s3://{source.bucket}/{source.key}"})


def check_allowed(allowed: str, source: BucketSource) -> None:
    """Pass silently where a bucket, or the beginning of the key, is among the comma-separated ones.

    Raises:
        PermissionDeniedError: it is not.
    """
    wanted = f"{source.bucket}/{source.key}"
    for one in allowed.split(","):
        named = one.strip().rstrip("/")
        if named and (wanted == named or wanted.startswith(f"{named}/")):
            return
    raise PermissionDeniedError(
        f"s3://{wanted[:200]} is in no bucket that this server may read from: whoever runs it "
        "names those in LLMOS_S3_BUCKETS; or fetch the files yourself and add them",
        param="url",
    )


def _objects(files: Any, source: BucketSource, given: str | None) -> list[Remote]:
    """Return the objects to fetch, in order.

    Raises:
        DataError: there is none that can be read.
    """
    path = f"{source.bucket}/{source.key}".rstrip("/")
    with _errors(path):
        about = files.info(path) if source.key else {"type": "directory"}
        if about["type"] == "file" and not source.key.endswith("/"):
            return [_remote(path, PurePosixPath(path).name, about)]
        listed = files.find(path, detail=True)
    found = []
    for key, info in sorted(listed.items()):
        shown = key.removeprefix(f"{path}/")
        is_file = info["type"] == "file" and info["size"]
        if is_file and not is_hidden(shown) and (given is not None or is_readable(shown)):
            found.append(_remote(key, shown, info))
    if not found:
        raise DataError(f"s3://{path} has no data files: name the format", param="url")
    return found


def _remote(path: str, shown: str, info: dict[str, Any]) -> Remote:
    return Remote(path, shown, int(info["size"]), str(info.get("ETag", "")))


def _check_sizes(context: JobContext, objects: list[Remote], limit_bytes: int) -> None:
    for one in objects:
        if one.size > limit_bytes:
            raise DataError(
                f"s3://{one.path} has {format_bytes(one.size)}, over the limit of "
                f"{format_bytes(limit_bytes)} (max_upload_bytes)",
                param="url",
            )
    total, free = sum(one.size for one in objects), shutil.disk_usage(context.checkpoint_dir).free
    if total > free:
        raise DiskFullError(
            f"the objects have {format_bytes(total)} and the disk has {format_bytes(free)} left: "
            "free some space (`llmos gc` may help), then try again"
        )


def _stored(context: JobContext, files: Any, one: Remote, done: int, total: int) -> str:
    """Return the digest of an object that is in the store then; one that was before this job was
    killed is not fetched again, and one of which a part was goes on there."""
    name = hashlib.sha256(f"{one.path}\0{one.version}".encode()).hexdigest()[:16]
    noted = context.checkpoint_dir / f"{name}.digest"
    if noted.exists() and context.blobs.touch(digest := noted.read_text("ascii")):
        return digest
    part = context.checkpoint_dir / f"{name}.part"
    with part.open("ab") as file:
        held = file.tell()
        while held < one.size:
            give_way(context)
            with _errors(one.path):
                piece = files.cat_file(one.path, start=held, end=min(held + PIECE_BYTES, one.size))
            file.write(piece)
            held += len(piece)
            context.progress(done + held, total + 1, one.shown)
    with _errors(one.path):
        is_same = str(files.info(one.path).get("ETag", "")) == one.version
    if not is_same or held != one.size:
        part.unlink()
        raise OutboundError(f"s3://{one.path} changed while it was read: it is fetched anew")
    digest = context.blobs.put_file(part, link=True).digest
    _note(noted, digest)
    part.unlink()
    return digest


def _note(path: Path, digest: str) -> None:
    partial = path.with_suffix(".tmp")
    partial.write_text(digest, "ascii")
    partial.rename(path)


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """Raise llmos' errors in place of s3fs' and botocore's."""
    from botocore.exceptions import BotoCoreError, NoCredentialsError

    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no s3://{path}", param="url") from None
    except (PermissionError, NoCredentialsError) as error:
        raise PermissionDeniedError(
            f"this server's credentials may not read s3://{path}: {str(error)[:200]}", param="url"
        ) from error
    except (OSError, BotoCoreError) as error:
        raise OutboundError(f"s3://{path} cannot be read now: {str(error)[:200]}") from error
