"""Files to and from the server: streamed, hashed, never half-written under their final name."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llmos.errors import (
    ConflictError,
    CorruptBlobError,
    DataError,
    InvalidModelError,
    InvalidRequestError,
)
from llmos.sdk.recipe_data import named_files
from llmos.types import NESTED_FILES

if TYPE_CHECKING:
    from llmos.sdk.transport import Transport

PIECE_BYTES = 2**20
MANIFEST_FILE = "manifest.json"
NO_FILES = ("starter:", "dataset:", "feedback:")
"""How the names of data begin that is in no file of the user's."""
OnProgress = Callable[[str, int, int], None]
"""Called with (file name, bytes done, bytes in all)."""


def upload_file(transport: Transport, path: Path, on_progress: OnProgress | None) -> dict[str, Any]:
    """Store one file; its bytes are sent only when the server does not have them yet.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError(f"{path} is not a file.", param="path")
        with path.open("rb") as file:
            digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.", param="path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", param="path") from error
    if transport.request("HEAD", f"/api/v1/blobs/{digest}").status_code == 200:
        if on_progress:
            on_progress(path.name, size, size)
        return {"digest": digest, "size": size}
    with (
        path.open("rb") as file,
        transport.stream(
            "POST",
            "/api/v1/blobs",
            content=_pieces(file, path.name, size, on_progress),
            headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
        ) as response,
    ):
        response.read()
        stored: dict[str, Any] = response.json()
    if stored["digest"] != digest:
        raise CorruptBlobError(f"{path} changed or was damaged while it was uploaded: try again.")
    return stored


def _pieces(file: Any, name: str, size: int, on_progress: OnProgress | None) -> Iterator[bytes]:
    done = 0
    while piece := file.read(PIECE_BYTES):
        yield piece
        done += len(piece)
        if on_progress:
            on_progress(name, done, size)


def upload_directory(
    transport: Transport, directory: Path, name: str, on_progress: OnProgress | None
) -> dict[str, str]:
    """Store the files of a directory that model ``name`` needs; returns their digests by name.

    The server says which those are before any is sent.

    Raises:
        InvalidModelError: it is not a directory, or not of a model.
        UnsafeFileError: its weights are in a format that could run code.
        InvalidNameError: ``name`` is not a name.
    """
    if not directory.is_dir():
        raise InvalidModelError(f"There is no directory {directory}.", param="directory")
    found = {path.name: path for path in sorted(directory.iterdir()) if path.is_file()}
    nested = {kept: directory / path for kept, path in NESTED_FILES.items()}
    found |= {kept: path for kept, path in nested.items() if path.is_file()}
    plan = transport.json(
        "POST", "/api/v1/models/import/plan", json={"name": name, "filenames": list(found)}
    )
    return {
        filename: str(upload_file(transport, path, on_progress)["digest"])
        for filename, path in found.items()
        if filename in plan["kept"]
    }


def download_model(
    transport: Transport, model: dict[str, Any], directory: Path, on_progress: OnProgress | None
) -> Path:
    """Write a version's files into ``directory``, which appears only when they are all there.

    Raises:
        ConflictError: the directory exists and is not empty.
        CorruptBlobError: a file does not match its digest.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConflictError(f"{directory} exists already: name a new directory.", param="directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        for name, file in model["files"].items():
            _download_file(transport, model["ref"], name, file, partial, on_progress)
        (partial / MANIFEST_FILE).write_text(
            json.dumps(model["manifest"], ensure_ascii=False, indent=1) + "\n", "utf-8"
        )
        partial.chmod(0o755)
        partial.replace(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return directory


def _download_file(
    transport: Transport,
    ref: str,
    name: str,
    file: dict[str, Any],
    directory: Path,
    on_progress: OnProgress | None,
) -> None:
    relative = PurePosixPath(NESTED_FILES.get(name, name))
    if relative.is_absolute() or ".." in relative.parts or "\\" in name:
        raise InvalidModelError(f"The model has a file with the unsafe name {name!r}.")
    target = directory / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher, done = hashlib.sha256(), 0
    url = f"/api/v1/models/{quote(ref, safe='/:@')}/files/{quote(name)}"
    with transport.stream("GET", url) as response, target.open("wb") as out:
        for piece in response.iter_bytes(PIECE_BYTES):
            hasher.update(piece)
            out.write(piece)
            done += len(piece)
            if on_progress:
                on_progress(name, done, int(file["size"]))
        out.flush()
        os.fsync(out.fileno())
    if "sha256:" + hasher.hexdigest() != file["digest"]:
        raise CorruptBlobError(f"{name} of {ref} was damaged on its way: try again.")


def local_data_paths(recipe: dict[str, Any]) -> list[str]:
    """Return the local files that a recipe names: its data, old or new, where it is no
    ``starter:NAME``, ``dataset:NAME`` or ``feedback:MODEL``, and word vectors, where they are no
    model."""
    paths = [section[key] for _, section, key in named_files(recipe)]
    return [path for path in paths if path and not path.startswith(NO_FILES)]


def check_json(value: Any, field: str) -> None:
    """Refuse what JSON has no form for, such as a date or an infinity.

    Raises:
        InvalidRequestError: naming ``field``, or the place inside it.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _not_json(field, f"the key {key!r}", "put it in quotes")
            check_json(item, f"{field}.{key}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_json(item, f"{field}.{index}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise _not_json(field, repr(value), "give a finite number")
    elif value is not None and not isinstance(value, str | int | float):
        raise _not_json(field, repr(value), "a date as text is put in quotes")


def _not_json(field: str, what: str, advice: str) -> InvalidRequestError:
    return InvalidRequestError(
        f"{field} has {what[:100]}, which JSON cannot hold: {advice}.", param=field
    )
