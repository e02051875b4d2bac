"""The models of the library that the operators of a pipeline name: to ask them, or to read files of
theirs, such as a tokenizer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmos.apps.inputs import files_of, readable
from llmos.data.pipeline import spec as specs
from llmos.data.pipeline.options import label_options, model_options, names_in
from llmos.data.pipeline.registry import find_operator
from llmos.data.pipeline.shard import StepSpec
from llmos.errors import InvalidRequestError, PipelineError

if TYPE_CHECKING:
    from llmos.library.artifacts import Library
    from llmos.library.versions import Version
    from llmos.security.actors import Actor

MODELS = "models"
"""The param that the server puts models' files into."""
PARAM = "params.pipeline"


async def models_for(library: Library, actor: Actor, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{"pipeline", "models"}`` of an unchecked request to run a pipeline: the models that
    its operators name by their versions, and the files that they read of some.

    Raises:
        PipelineError, InvalidNameError, DataError: the pipeline is none, a model is not made for
            what a step asks of it, does not know a label, or has no file to read.
        InvalidRequestError: the request brings files of its own.
        ModelNotFoundError: there is no such model.
        PermissionDeniedError: the actor may not read it.
    """
    if params.get(MODELS) is not None:
        raise InvalidRequestError(
            "models is the server's to fill in: name a model in the step", param=f"params.{MODELS}"
        )
    spec = specs.parse(params.get("pipeline"))
    steps = await asyncio.to_thread(specs.steps_of, spec)
    versions = {
        name: await readable(library, actor, name, PARAM) for name in specs.models_of(steps)
    }
    for step in steps:
        _check_models(step, versions)
    files = {
        versions[name].ref: files_of(versions[name], filenames)
        for step, name, filenames in _read(steps)
    }
    refs = {name: version.ref for name, version in versions.items()}
    return {"pipeline": specs.pinned(spec, steps, refs).model_dump(mode="json"), MODELS: files}


def _check_models(step: StepSpec, versions: Mapping[str, Version]) -> None:
    """Refuse models that are not made for what a step asks of them, and labels that they do not
    know."""
    kind = find_operator(step.name)
    for option, tasks in model_options(kind.options_type).items():
        for name in names_in(step.options, option):
            does = _tasks(versions[name])
            if tasks and not set(tasks) & set(does):
                raise _wrong(
                    step,
                    f"{versions[name].ref} is a model for {', '.join(does)}, not for "
                    f"{' or '.join(tasks)}: set `{option}`",
                )
    for option, of in label_options(kind.options_type).items():
        version = versions[step.options[of]]
        known = _labels(version, model_options(kind.options_type)[of])
        for label in names_in(step.options, option) if known else ():
            if label not in known:
                raise _wrong(
                    step,
                    f"{version.ref} knows no label {label[:80]!r}, only {', '.join(known[:50])}: "
                    f"set `{option}`",
                )
    for _, name, filenames in _read([step]):
        if filenames[0] not in versions[name].files:
            raise _wrong(step, f"{versions[name].ref} has no {filenames[0]} to read")


def _read(steps: list[StepSpec]) -> Iterator[tuple[StepSpec, str, tuple[str, ...]]]:
    """Yield the steps that read files of models, with the model and the names of the files."""
    for step in steps:
        for option, filenames in find_operator(step.name).reads.items():
            for name in names_in(step.options, option):
                yield step, name, filenames


def _tasks(version: Version) -> list[str]:
    return list(version.manifest.get("heads") or [version.manifest["task"]])


def _labels(version: Version, tasks: list[str]) -> list[str]:
    """Return the labels of a model made for one of some tasks, none where they are not known."""
    heads = version.manifest.get("heads") or {}
    of_head = next((heads[task] for task in tasks if task in heads), None)
    return list(of_head or version.manifest.get("labels") or ())


def _wrong(step: StepSpec, reason: str) -> PipelineError:
    return PipelineError(f"step {step.number}: {step.name}: {reason}", param=PARAM)
