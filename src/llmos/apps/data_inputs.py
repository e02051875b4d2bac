"""The models of the library that the operators of a pipeline ask, or read files of, such as a
tokenizer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmos.apps.inputs import files_of, readable
from llmos.data.pipeline import spec as specs
from llmos.data.pipeline.registry import find_operator, operator_paths
from llmos.errors import InvalidRequestError

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.security.actors import Actor

MODELS = "models"
"""The param that the server puts models' files into."""


async def pinned_models(
    library: Library, actor: Actor, params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``{"pipeline": …}``, the models that its operators ask by their versions.

    Raises:
        PipelineError, InvalidNameError, DataError: the pipeline is none.
        ModelNotFoundError: there is no such model.
        PermissionDeniedError: the actor may not read it.
    """
    spec = specs.parse(params.get("pipeline"))
    versions = {}
    for name in await asyncio.to_thread(specs.models_of, spec):
        versions[name] = (await readable(library, actor, name, "params.pipeline")).ref
    return {"pipeline": specs.pinned(spec, versions).model_dump(mode="json")}


async def models_for(library: Library, actor: Actor, params: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"pipeline", "models"}`` of an unchecked request to run a pipeline, as far as its
    operators read files of models: each is named with its number, and has its files told.

    Raises:
        InvalidRequestError: the request brings files of its own, or a model has none to read.
        ModelNotFoundError, InvalidNameError: there is no such model.
        PermissionDeniedError: the actor may not read it.
    """
    if params.get(MODELS) is not None:
        raise InvalidRequestError(
            "models is the server's to fill in: name a model in the step", param=f"params.{MODELS}"
        )
    models: dict[str, Any] = {}
    steps = _plain_steps(params.get("pipeline"))
    for place, name, options in _reading(steps):
        pinned = {}
        for option, filenames in find_operator(name).reads.items():
            if not isinstance(given := options.get(option), str):
                continue  # the operator's own check tells
            version = await readable(library, actor, given, "params.pipeline")
            files = files_of(version, filenames)
            if filenames[0] not in files:
                raise InvalidRequestError(
                    f"{version.ref} has no {filenames[0]} for {name} to read",
                    param="params.pipeline",
                )
            pinned[option] = version.ref
            models[version.ref] = files
        steps[place] = {name: {**options, **pinned}}
    if not models:
        return {}
    return {"pipeline": {**params["pipeline"], "steps": steps}, MODELS: models}


def _plain_steps(pipeline: Any) -> list[Any]:
    steps = pipeline.get("steps") if isinstance(pipeline, dict) else None
    return list(steps) if isinstance(steps, list) else []


def _reading(steps: list[Any]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yield the place, operator and options of the steps whose operator reads files of models."""
    for place, step in enumerate(steps):
        if not isinstance(step, dict) or len(step) != 1:
            continue
        ((name, options),) = step.items()
        known = isinstance(name, str) and name in operator_paths() and isinstance(options, dict)
        if known and find_operator(name).reads:
            yield place, name, options
