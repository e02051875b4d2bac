"""The pull job: from a repository of the Hugging Face hub to a new model version.

Listing and HTTP are huggingface_hub's, so HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_OFFLINE mean
what they mean there. Its cache is read and linked, never written: all llmos keeps is in its home.
Runs in a job worker only.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub import try_to_load_from_cache as cached_path
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from llmos.errors import (
    DiskFullError,
    InvalidModelError,
    LlmosError,
    ModelNotFoundError,
    PermissionDeniedError,
    UnreachableError,
    UnsafeFileError,
)
from llmos.kernel.ledger import format_bytes
from llmos.library import catalog
from llmos.library.download import Transfer, fetch
from llmos.library.files import ADAPTER_CONFIG_FILE, CONFIG_FILE, INDEX_FILE, WEIGHTS_FILE, select
from llmos.library.importers import make_version
from llmos.types import NESTED_FILES, FileRef, JobResult

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

_LIST_TIMEOUT_S = 30.0
_CONVERTER = "SFconvertbot"
_CONVERSION = "Adding `safetensors` variant of this model"
_PAIR = re.compile(r"opus-mt-([a-z]{2})-([a-z]{2})")
_GIVE_TOKEN = "set HF_TOKEN where llmos was started (`llmos down`, then `llmos up`)"  # noqa: S105


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: its size, and its SHA-256 (LFS) or git blob id."""

    name: str
    size: int
    sha256: str | None
    git_id: str | None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit."""

    repo: str
    revision: str
    commit: str
    files: dict[str, RemoteFile]
    repo_type: str = "model"


def run(context: JobContext) -> JobResult:
    """Pull ``params["repo"]`` at ``params["revision"]`` as a version of ``params["name"]``.

    Raises:
        ModelNotFoundError, PermissionDeniedError: the hub has no such repository for us.
        UnreachableError: the hub cannot be reached; worth another attempt.
        InvalidModelError, UnsafeFileError: the files are not a model llmos can run safely.
        DiskFullError: there is no room.
    """
    constants.HF_HUB_DISABLE_TELEMETRY = True
    repo, revision = context.params["repo"], context.params["revision"]
    source: dict[str, Any] = {"kind": "pulled", "repo": repo, "revision": revision}
    with hub_errors(repo, revision):
        if constants.is_offline_mode():
            context.log("HF_HUB_OFFLINE is set: looking in the Hugging Face cache only")
            files = _from_cache(context, repo, revision)
        else:
            listing = _with_safetensors(context, list_files(repo, revision))
            source |= {"commit": listing.commit, "endpoint": constants.ENDPOINT}
            source |= {"revision": listing.revision}
            files = fetch_files(context, listing, _chosen(listing))
    return make_version(context, context.params["name"], files, source, _known(repo))


def list_files(repo: str, revision: str, repo_type: str = "model") -> Listing:
    """Return the files of a repository, of a model or a dataset, with their sizes and digests.

    Raises:
        UnreachableError: the answer is not a hub's.
        HfHubHTTPError, httpx2.TransportError: as huggingface_hub raises them.
    """
    try:
        info = HfApi().repo_info(
            repo,
            revision=revision,
            repo_type=repo_type,
            files_metadata=True,
            timeout=_LIST_TIMEOUT_S,
        )
        files = {entry.rfilename: _remote_file(entry) for entry in info.siblings}
    except HfHubHTTPError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise UnreachableError(
            f"{constants.ENDPOINT} does not answer like a Hugging Face hub: check HF_ENDPOINT"
        ) from error
    return Listing(repo, revision, str(info.sha), files, repo_type)


def _remote_file(entry: Any) -> RemoteFile:
    sha256 = entry.lfs.sha256 if entry.lfs else None
    return RemoteFile(entry.rfilename, int(entry.size), sha256, entry.blob_id)


def _with_safetensors(context: JobContext, listing: Listing) -> Listing:
    """Return the listing, or that of the hub's own conversion where main has no safetensors.

    The hub's bot opens a pull request with a conversion; one by anyone else is not taken.
    """
    if listing.revision != constants.DEFAULT_REVISION or any(
        name.endswith(".safetensors") for name in listing.files
    ):
        return listing
    requests = HfApi().get_repo_discussions(
        listing.repo, discussion_type="pull_request", author=_CONVERTER
    )
    for request in requests:
        open_or_draft = request.status in {"open", "draft"}
        if open_or_draft and request.author == _CONVERTER and request.title == _CONVERSION:
            context.log(f"no safetensors on main: taking {_CONVERTER}'s {request.git_reference}")
            return list_files(listing.repo, str(request.git_reference))
    return listing


@contextmanager
def hub_errors(repo: str, revision: str) -> Iterator[None]:
    """Raise llmos' errors, each one sentence with what to do, in place of huggingface_hub's."""
    try:
        yield
    except HfHubHTTPError as error:
        raise _refusal(error, repo, revision) from error
    except httpx2.HTTPError as error:
        raise UnreachableError(
            f"the hub at {constants.ENDPOINT} cannot be reached: check the network, "
            "or set HF_ENDPOINT to a mirror"
        ) from error


def _refusal(error: HfHubHTTPError, repo: str, revision: str) -> LlmosError:
    """Return the error for an answer of the hub that is not 2xx."""
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return PermissionDeniedError(
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, then {_GIVE_TOKEN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return ModelNotFoundError(f"{repo} has no revision {revision!r}: try without --revision")
    if status in {401, 403} and get_token() is not None:
        return PermissionDeniedError(
            f"the hub refuses HF_TOKEN for {repo}: check the token and its permissions"
        )
    if isinstance(error, RepositoryNotFoundError) or status in {401, 403, 404}:
        return ModelNotFoundError(
            f"the hub has no repository {repo}, or it is private: check the name, or {_GIVE_TOKEN}"
        )
    if status in {408, 429} or status >= 500:
        return UnreachableError(
            f"the hub at {constants.ENDPOINT} is busy or failing (HTTP {status}): try later"
        )
    return InvalidModelError(f"the hub refuses the request for {repo} (HTTP {status})")


def _from_cache(context: JobContext, repo: str, revision: str) -> dict[str, FileRef]:
    """Link a repository's files out of the Hugging Face cache.

    Raises:
        ModelNotFoundError: it is not there.
    """
    configs = (CONFIG_FILE, ADAPTER_CONFIG_FILE)
    found = (cached_path(repo, name, revision=revision) for name in configs)
    config = next((path for path in found if isinstance(path, str)), None)
    if config is None:
        raise ModelNotFoundError(
            f"{repo} ({revision}) is not in the Hugging Face cache and HF_HUB_OFFLINE is set: "
            "unset it where llmos was started, or fill the cache first"
        )
    snapshot = Path(config).parent
    paths = {path.name: path.name for path in snapshot.iterdir() if path.is_file()}
    paths |= {name: path for name, path in NESTED_FILES.items() if (snapshot / path).is_file()}
    kept = select(paths).kept
    return {name: context.blobs.put_file(snapshot / paths[name], link=True) for name in kept}


def fetch_files(
    context: JobContext, listing: Listing, paths: Mapping[str, str]
) -> dict[str, FileRef]:
    """Return files of a repository as blobs: stored or cached ones, the rest downloaded.

    Args:
        paths: what each is to be called -> where it is in the repository.

    Raises:
        DiskFullError: there is no room for them.
        InvalidModelError: one comes damaged.
        HfHubHTTPError, httpx2.HTTPError: as huggingface_hub raises them, see `hub_errors`.
    """
    wanted = [listing.files[path] for path in paths.values()]
    meter = _Meter(context, sum(file.size for file in wanted))
    held = {file.name: _stored(context, listing, file) for file in wanted}
    missing = sum(file.size for file in wanted if held[file.name] is None)
    _check_room(context, listing.repo, missing)
    files: dict[str, FileRef] = {}
    for name, file in zip(paths, wanted, strict=True):
        ref = held[file.name]
        files[name] = ref if ref is not None else _download(context, listing, file, meter)
        meter.finish(file)
    return files


def _chosen(listing: Listing) -> dict[str, str]:
    """Return what to fetch, name to keep -> path; where the weights come whole and split, whole."""
    paths = {path: path for path in listing.files if "/" not in path}
    paths |= {name: path for name, path in NESTED_FILES.items() if path in listing.files}
    try:
        kept = select(paths).kept
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{listing.repo} has no safetensors, only formats that may run code: look at its "
            "Community tab for a conversion and pull that with --revision refs/pr/N, or convert it "
            "yourself and `llmos import` the directory"
        ) from error
    if WEIGHTS_FILE in kept:
        split = {INDEX_FILE} | {name for name in kept if name.startswith("model-")}
        kept = tuple(name for name in kept if name not in split)
    return {name: paths[name] for name in kept}


def _stored(context: JobContext, listing: Listing, file: RemoteFile) -> FileRef | None:
    """Return the file's blob if it is in the store, or in the Hugging Face cache and sound."""
    if file.sha256 is not None and context.blobs.touch(f"sha256:{file.sha256}"):
        return FileRef(f"sha256:{file.sha256}", file.size)
    path = cached_path(
        listing.repo, file.name, revision=listing.commit, repo_type=listing.repo_type
    )
    if not isinstance(path, str) or not _is_sound(Path(path), file):
        return None
    context.log(f"{file.name}: linked from the Hugging Face cache")
    return context.blobs.put_file(Path(path), link=True)


def _download(context: JobContext, listing: Listing, file: RemoteFile, meter: _Meter) -> FileRef:
    """Fetch one file and store it, its digest checked; a damaged one is fetched once more.

    Raises:
        InvalidModelError: it came damaged twice.
    """
    part = context.checkpoint_dir / f"{hashlib.sha256(file.name.encode()).hexdigest()[:16]}.part"
    url = hf_hub_url(
        listing.repo,
        file.name,
        repo_type=listing.repo_type,
        revision=listing.commit,
        endpoint=constants.ENDPOINT,
    )
    transfer = Transfer(url, build_hf_headers(library_name="llmos"), file.size, part)
    if file.size == 0:
        part.touch()
    for _ in range(2):
        fetch(transfer, lambda held: meter.show(file, held))
        if _is_sound(part, file):
            ref = context.blobs.put_file(part, link=True)
            part.unlink()
            return ref
        context.log(f"{file.name} came damaged: its digest is not the hub's")
        part.unlink()
    raise InvalidModelError(
        f"{file.name} of {listing.repo} does not match the hub's digest: it is damaged at "
        f"{constants.ENDPOINT} or on the way; try again later or set HF_ENDPOINT to another mirror"
    )


def _is_sound(path: Path, file: RemoteFile) -> bool:
    """Whether the file has the size and digest that the hub lists."""
    if path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
    if not file.sha256:
        digest.update(f"blob {file.size}\0".encode())  # how git names a file's content
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.git_id)


def _check_room(context: JobContext, repo: str, missing_bytes: int) -> None:
    free = shutil.disk_usage(context.checkpoint_dir).free
    if missing_bytes > free:
        raise DiskFullError(
            f"{repo} needs {format_bytes(missing_bytes)} and the disk has {format_bytes(free)}: "
            "free some space (`llmos gc` may help), then pull again"
        )


def _known(repo: str) -> dict[str, Any]:
    """Return what the repository's name and the catalog tell beyond the files, for the manifest."""
    entry = catalog.find(repo)
    prefix = entry.translation_prefix if entry else None
    pair = _PAIR.fullmatch(repo.partition("/")[2])
    if prefix is None and pair is None:
        return {}
    pairs = [list(pair.groups())] if pair else []
    return {"task": "translate", "translation": {"prefix": prefix or "", "pairs": pairs}}


class _Meter:
    """Reports bytes of the whole pull, and lets a cancelled or paused job stop between chunks."""

    def __init__(self, context: JobContext, total: int) -> None:
        self._context = context
        self._total = total
        self._finished = 0

    def show(self, file: RemoteFile, held: int) -> None:
        self._context.wait_while_paused()
        self._context.raise_if_cancelled()
        self._context.progress(self._finished + held, self._total, file.name)

    def finish(self, file: RemoteFile) -> None:
        self._finished += file.size
        self.show(file, 0)
