"""Puts the models that ship inside the package into a library, at first start or after upgrades."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from llmos.library.artifacts import Library
from llmos.library.files import MANIFEST_FILE
from llmos.library.manifest import version_digest
from llmos.library.versions import Version
from llmos.security.actors import OPERATORS, SYSTEM
from llmos.storage.blobs import BlobStore
from llmos.types import FileRef, NewVersion

TASKS = {
    "starter-chat": "chat",
    "starter-translate": "machine_translation",
    "starter-sentiment": "sentiment",
    "starter-entities": "entities",
}
"""The task name each starter model answers to until a user chooses another."""


def install_starter_models(
    library: Library, blobs: BlobStore, directory: Path | None = None
) -> list[Version]:
    """Add each packaged model that was never in the library; return those added.

    Idempotent: a version of the same content, even one removed by the user, is not added again.
    Task names without a model get theirs.

    Args:
        directory: holds one directory a model; None means the package's own.
    """
    if directory is not None:
        return _install_all(library, blobs, directory)
    with as_file(files("llmos") / "starter" / "models") as packaged:
        return _install_all(library, blobs, packaged)


def _install_all(library: Library, blobs: BlobStore, directory: Path) -> list[Version]:
    if not directory.is_dir():
        return []
    found = sorted(path.parent for path in directory.glob(f"*/{MANIFEST_FILE}"))
    added = [version for path in found if (version := _install(library, blobs, path)) is not None]
    taken = library.task_defaults()
    present = {version.full_name for version in library.list() if version.owner in OPERATORS}
    for name, task in TASKS.items():
        if task not in taken and name in present:
            library.set_task_default(task, name, SYSTEM)
    return added


def _install(library: Library, blobs: BlobStore, directory: Path) -> Version | None:
    manifest: dict[str, Any] = json.loads((directory / MANIFEST_FILE).read_bytes())
    paths = [path for path in sorted(directory.iterdir()) if path.name != MANIFEST_FILE]
    digest = version_digest({path.name: _file_ref(path) for path in paths}, manifest)
    if any(version.digest == digest for version in library.versions(directory.name)):
        return None
    stored = {path.name: blobs.put_file(path) for path in paths}
    new = NewVersion(kind="model", name=directory.name, files=stored, manifest=manifest)
    return library.add(new, owner="llmos")


def _file_ref(path: Path) -> FileRef:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileRef(f"sha256:{digest}", path.stat().st_size)
