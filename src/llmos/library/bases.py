"""Which model an adapter runs over: when it is imported, and when a request asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from llmos.errors import InvalidModelError, InvalidNameError, ModelNotFoundError
from llmos.library import catalog
from llmos.library.files import ADAPTER_CONFIG_FILE, MANIFEST_FILE
from llmos.library.refs import ModelRef
from llmos.library.variants import is_quantized

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.library.versions import Version
    from llmos.storage.blobs import BlobStore

_MAX_BYTES = 2**24
_NEEDED = ("config.json", "model.safetensors.index.json")


class Finder(Protocol):
    """Finds versions by reference; the library."""

    def resolve(self, ref: str | ModelRef, kind: str | None = None) -> Version: ...


def resolve_pair(library: Finder, ref: str) -> tuple[Version, Version | None]:
    """Return the model that ``ref`` asks for, and the adapter to run over it, if any.

    ``base+adapter`` names both; an adapter's own name means the base it was imported for.

    Raises:
        ModelNotFoundError: there is no such model or adapter, or its base is gone.
    """
    base_ref, plus, adapter_ref = ref.partition("+")
    if plus:
        return library.resolve(base_ref, "model"), library.resolve(adapter_ref, "adapter")
    version = library.resolve(ref)
    if version.kind != "adapter":
        return version, None
    try:
        return library.resolve(version.manifest["base"], "model"), version
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"the base of {version.ref} is gone ({error.message}): name another one, as in "
            f"BASE+{version.full_name}",
            param="model",
        ) from error


def find_base(
    library: Library, blobs: BlobStore, files: Mapping[str, str], wanted: str | None
) -> Version:
    """Return the model that the adapter of these uploaded files runs over.

    Args:
        files: file name -> blob digest.
        wanted: a reference; None looks for what an earlier export or PEFT wrote down.

    Raises:
        ModelNotFoundError: there is no such model, or none that the files name.
        InvalidModelError: it is no language model of ours.
    """
    if wanted is not None:
        version = library.resolve(wanted, "model")
    else:
        exported = _content(blobs, files.get(MANIFEST_FILE)).get("base_digest")
        named = _content(blobs, files.get(ADAPTER_CONFIG_FILE)).get("base_model_name_or_path")
        version = _with_digest(library, exported) or _named(library, named)
    if is_quantized(version.manifest):
        raise InvalidModelError(
            f"{version.ref} is quantised, and an adapter is checked against the stored weights: "
            "name the model that it was made of, which then still runs quantised",
            param="base",
        )
    if version.manifest.get("engine") != "native":
        raise InvalidModelError(
            f"{version.ref} is no base for an adapter: only models that generate text take one",
            param="base",
        )
    return version


def base_params(version: Version) -> dict[str, Any]:
    """Return what the import job needs to know of the base."""
    kept = {
        name: msgspec.to_builtins(file)
        for name, file in version.files.items()
        if name in _NEEDED or name.endswith(".safetensors")
    }
    facts = {key: version.manifest.get(key) for key in ("task", "languages", "chat_template")}
    return {"ref": version.ref, "digest": version.digest, "files": kept, **facts}


def _with_digest(library: Library, digest: Any) -> Version | None:
    found = [version for version in library.list("model") if version.digest == digest]
    return found[-1] if found else None


def _named(library: Library, name: Any) -> Version:
    """Return the newest model pulled from the repository ``name``, else the one so called."""
    if not isinstance(name, str) or not name:
        raise ModelNotFoundError(
            f"{ADAPTER_CONFIG_FILE} does not say which model the adapter is for: pass --base",
            param="base",
        )
    folded = name.lower()
    pulled = [
        version
        for version in library.list("model")
        if str((version.manifest.get("source") or {}).get("repo")).lower() == folded
    ]
    if pulled:
        return max(pulled, key=lambda version: version.id)
    entry = catalog.find(name)
    for candidate in (name, entry.name if entry else "", name.rstrip("/").rpartition("/")[2]):
        try:
            found = library.resolve(candidate, "model")
            if found.full_name == ModelRef.parse(candidate).full_name:  # and not a task's default
                return found
        except (InvalidNameError, ModelNotFoundError):
            continue
    raise ModelNotFoundError(
        f"the adapter was trained on {name[:200]!a}, which is not in the library: "
        "pull or import that model first, or pass --base with its name here",
        param="base",
    )


def _content(blobs: BlobStore, digest: str | None) -> dict[str, Any]:
    """Return a small JSON file; the import itself says what is wrong with one that is none."""
    if digest is None or not blobs.has(digest) or blobs.path(digest).stat().st_size > _MAX_BYTES:
        return {}
    try:
        value = json.loads(blobs.read_bytes(digest))
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
