"""A dataset of a Hugging Face hub: its files of rows, listed and fetched as `llmos pull` does it.

HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean what they mean there. No code of a dataset is
run: one that has a script only is taken as the hub itself has converted it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

from llmos.data.fetching.sources import Found, HubSource, is_readable
from llmos.errors import (
    DataError,
    DatasetNotFoundError,
    InvalidModelError,
    ModelNotFoundError,
)
from llmos.library.hub import Listing, fetch_files, hub_errors, list_files
from llmos.sdk.dataset_layout import README, Chosen, choose, files_of_rows

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

CONVERTED = "refs/convert/parquet"
"""The branch on which the hub's own bot keeps a dataset as Parquet."""
MAIN = "main"
MAX_README_BYTES = 2**20


def fetch(context: JobContext, source: HubSource) -> Found:
    """Fetch the files of a dataset and store them. For what is raised see `sources.fetched`."""
    constants.HF_HUB_DISABLE_TELEMETRY = True
    shown = f"datasets/{source.repo}"
    try:
        with hub_errors(shown, source.revision):
            if constants.is_offline_mode():
                return _from_cache(context, source)
            return _from_hub(context, source)
    except ModelNotFoundError as error:
        raise DatasetNotFoundError(error.message, param="url") from error
    except InvalidModelError as error:
        raise DataError(error.message, param="url") from error


def _from_hub(context: JobContext, source: HubSource) -> Found:
    listing = list_files(source.repo, source.revision, "dataset")
    try:
        chosen = _choose(context, listing, source)
    except DataError:
        converted = _converted(listing, source)
        if converted is None:
            raise
        listing = converted
        chosen = _choose(context, listing, source)
        context.log(f"no files of rows on {MAIN}: taking the hub's own {CONVERTED}")
    files = fetch_files(context, listing, {path: path for path in chosen.paths})
    context.log(f"{len(files):,} files of {source.repo} at {listing.commit}")
    digests = {name: file.digest for name, file in files.items()}
    origin = _origin(source, chosen) | {"revision": listing.revision, "commit": listing.commit}
    return Found(digests, origin | {"endpoint": constants.ENDPOINT})


def _converted(listing: Listing, source: HubSource) -> Listing | None:
    """Return what the hub made of a dataset that has no files of rows itself."""
    if source.revision != MAIN or files_of_rows(listing.files, is_readable):
        return None
    try:
        return list_files(source.repo, CONVERTED, "dataset")
    except RevisionNotFoundError:
        return None


def _choose(context: JobContext, listing: Listing, source: HubSource) -> Chosen:
    readme = ""
    about = listing.files.get(README)
    if about is not None and about.size <= MAX_README_BYTES:
        (file,) = fetch_files(context, listing, {README: README}).values()
        readme = context.blobs.read_bytes(file.digest).decode("utf-8", "replace")
    return choose(listing.files, readme, source.parts, is_readable)


def _from_cache(context: JobContext, source: HubSource) -> Found:
    """Link a dataset's files out of the Hugging Face cache.

    Raises:
        DatasetNotFoundError: it is not there.
    """
    context.log("HF_HUB_OFFLINE is set: looking in the Hugging Face cache only")
    try:
        folder = Path(
            snapshot_download(
                source.repo,
                repo_type="dataset",
                revision=source.revision,
                cache_dir=constants.HF_HUB_CACHE,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        raise DatasetNotFoundError(
            f"{source.repo} ({source.revision}) is not in the Hugging Face cache and "
            "HF_HUB_OFFLINE is set: unset it where llmos was started, or fill the cache first",
            param="url",
        ) from None
    chosen = choose(_names(folder), _readme(folder), source.parts, is_readable)
    files = {}
    for name in chosen.paths:
        files[name] = context.blobs.put_file(folder / name, link=True).digest
    origin = _origin(source, chosen) | {"revision": source.revision, "commit": folder.name}
    return Found(files, origin)


def _names(folder: Path) -> Iterable[str]:
    return (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _readme(folder: Path) -> str:
    path = folder / README
    if not path.is_file() or path.stat().st_size > MAX_README_BYTES:
        return ""
    return path.read_text("utf-8", "replace")


def _origin(source: HubSource, chosen: Chosen) -> dict[str, str]:
    told = {"configuration": chosen.configuration, "split": chosen.split}
    return {"repo": source.repo} | {key: value for key, value in told.items() if value}
