"""The versions that a job is made of: whether it can be, and what its worker needs of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from msgspec import to_builtins

from llmos.errors import InvalidRequestError, LlmosError
from llmos.library.files import TOKENIZER_FILES
from llmos.library.variants import is_quantized
from llmos.security import policy
from llmos.training.counted import WORD_VECTORS
from llmos.training.jobs import makes_adapter

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.library.versions import Version
    from llmos.security.actors import Actor

DATASETS = "datasets"
"""The param that the server puts datasets into."""


def check_trainable(version: Version, role: str, params: Mapping[str, Any]) -> None:
    """Refuse a version that cannot have its role in the training of an unchecked request.

    Raises:
        InvalidRequestError: it is quantised, has no word vectors where they are wanted, or takes no
            adapter where it is to have one.
    """
    refused = None
    if is_quantized(version.manifest):
        refused = "is quantised and cannot be trained: name the model it was made of"
    elif role == "vectors" and version.manifest.get("model_type") != WORD_VECTORS:
        refused = (
            "has no word vectors: name a model trained as such or imported by `llmos vectors "
            "import`, or a file that ends in .txt or .vec"
        )
    elif role == "base" and makes_adapter(params) and version.manifest.get("engine") != "native":
        refused = "is no base for an adapter: only models that generate text take one"
    if refused is not None:
        raise InvalidRequestError(f"{version.ref} {refused}", param="params.recipe")


async def datasets_for(
    library: Library, actor: Actor, params: Mapping[str, Any], wanted: Mapping[str, str]
) -> dict[str, Any]:
    """Return ``{"datasets": {role: …}}`` of the datasets that a job reads; empty where it reads
    none.

    Args:
        wanted: the reference of each, by its role.

    Raises:
        InvalidRequestError: the request brings some of its own, or one has no rows that are kept.
        DatasetNotFoundError, InvalidNameError: there is no such dataset.
        PermissionDeniedError: the actor may not read it.
    """
    if params.get(DATASETS) is not None:
        raise InvalidRequestError(
            "datasets is the server's to fill in: name a dataset", param=f"params.{DATASETS}"
        )
    found = {}
    for role, ref in wanted.items():
        try:
            version = await asyncio.to_thread(library.resolve, ref, "dataset")
        except LlmosError as error:
            error.param = f"params.{role}"
            raise
        policy.check(actor, "datasets.read", version.ref, owner=version.owner)
        found[role] = dataset_params(version)
    return {DATASETS: found} if found else {}


async def readable(library: Library, actor: Actor, name: str, param: str) -> Version:
    """Return a model that the actor may read.

    Raises:
        ModelNotFoundError, InvalidNameError: there is none; ``param`` names it.
        PermissionDeniedError: the actor may not read it.
    """
    try:
        version = await asyncio.to_thread(library.resolve, name, "model")
    except LlmosError as error:
        error.param = param
        raise
    policy.check(actor, "models.read", version.ref)
    return version


def dataset_params(version: Version) -> dict[str, Any]:
    """Return what a job is told of a dataset: its shards by digest, in order, its columns, the
    files of the tokenizer that made its ids, if it has any.

    Raises:
        InvalidRequestError: it has none.
    """
    shards = version.manifest.get("shards")
    if not shards:
        raise InvalidRequestError(f"{version.ref} has no rows that a job can read")
    return {
        "ref": version.ref,
        "digest": version.digest,
        "rows": version.manifest["rows"],
        "license": version.manifest["license"],
        "shards": [version.files[shard["file"]].digest for shard in shards],
        "columns": version.manifest["schema"],
        "tokenizer": files_of(version, TOKENIZER_FILES),
    }


def files_of(version: Version, names: Iterable[str]) -> dict[str, Any]:
    """Return what a job is told of some of a version's files, of those that it has."""
    return {name: to_builtins(version.files[name]) for name in names if name in version.files}
