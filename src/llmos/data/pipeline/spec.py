"""A pipeline as its file has it: the dataset it reads, the one it makes, its operators in order.

`parse` checks it and fills every option in, so that what is kept with a dataset says all of how it
was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from llmos.data.pipeline.consulting import wrong_dataset
from llmos.data.pipeline.operator import Collective
from llmos.data.pipeline.options import Columns, model_options, names_in, wrong_field
from llmos.data.pipeline.record import ID, META
from llmos.data.pipeline.registry import find_operator, make_operator
from llmos.data.pipeline.shard import StepSpec
from llmos.errors import PipelineError
from llmos.library.refs import ModelRef, parse_name

MAX_STEPS = 200
MAX_BYTES = 2**20
REJECTED_SHARE = 0.01
"""Of the records read; more rejected ones stop a job, unless it is told."""


class PipelineSpec(BaseModel):
    """The keys of a pipeline file."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: str = Field(min_length=1)
    """Of the dataset it makes."""
    input: str = Field(min_length=1)
    """The dataset that it reads: name, name:number or name@alias."""
    steps: list[str | dict[str, Any]] = Field(min_length=1, max_length=MAX_STEPS)
    """An operator's name, or ``{name: {option: value}}``."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    max_rejected: float = Field(default=REJECTED_SHARE, ge=0, le=1)
    description: str = Field(default="", max_length=10_000)
    license: str = Field(default="", max_length=200)
    """Of the new dataset; its input's unless told."""


def load(path: Path) -> dict[str, Any]:
    """Read a pipeline file.

    Raises:
        PipelineError: there is no such file, or it is no YAML mapping.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise PipelineError(f"{path} is larger than a pipeline may be: {MAX_BYTES:,} bytes")
        found = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"there is no pipeline {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path} cannot be read as a pipeline: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise PipelineError(f"{path} is not valid YAML{line}: {problem}") from None
    if not isinstance(found, dict):
        raise PipelineError(f"{path} must be a YAML mapping with the keys name, input and steps")
    return found


def parse(given: Any) -> PipelineSpec:
    """Check a pipeline, as far as its own keys go.

    Raises:
        PipelineError: with the offending key.
        InvalidNameError: a name is none.
    """
    if not isinstance(given, dict):
        raise PipelineError("a pipeline must be a mapping with the keys name, input and steps")
    try:
        spec = PipelineSpec.model_validate_json(json.dumps(given, default=str), strict=True)
    except ValidationError as error:
        raise PipelineError(_complaint(error)) from None
    except (RecursionError, ValueError, TypeError):
        raise PipelineError("the pipeline is no plain mapping of keys to values") from None
    parse_name(spec.name)
    ModelRef.parse(spec.input)
    return spec


def steps_of(spec: PipelineSpec) -> list[StepSpec]:
    """Return the steps of a pipeline, each with all of its options.

    Raises:
        PipelineError: there is no such operator or option; the message names the step.
        DataError: one needs a package that is not installed.
    """
    steps = []
    for number, given in enumerate(spec.steps, 1):
        name, options = _step(given, number)
        try:
            operator = make_operator(name, options, spec.seed)
        except PipelineError as error:
            raise PipelineError(f"step {number}: {error.message}", param="steps") from None
        steps.append(StepSpec(number, name, operator.options.model_dump(mode="json")))
    return steps


def models_of(steps: Sequence[StepSpec]) -> list[str]:
    """Return the models that steps name, each once."""
    named = (
        name
        for step in steps
        for option in model_options(find_operator(step.name).options_type)
        for name in names_in(step.options, option)
    )
    return list(dict.fromkeys(named))


def pinned(spec: PipelineSpec, steps: Sequence[StepSpec], refs: Mapping[str, str]) -> PipelineSpec:
    """Return a pipeline with all options of its steps, models by the versions that they stand
    for."""
    told: list[str | dict[str, Any]] = []
    for step in steps:
        options = dict(step.options)
        for option in model_options(find_operator(step.name).options_type):
            given = options[option]
            if isinstance(given, str):
                options[option] = refs[given]
            elif given is not None:
                options[option] = [refs[one] for one in given]
        told.append({step.name: options})
    return spec.model_copy(update={"steps": told})


def check_fields(
    spec: PipelineSpec, steps: Sequence[StepSpec], versions: Mapping[str, Mapping[str, Any]]
) -> None:
    """Pass silently while every step finds the fields that it reads, as far as the columns of the
    datasets tell.

    Args:
        versions: what a job is told of datasets, "input" among them; without ``columns`` nothing is
            known.

    Raises:
        PipelineError: one does not; the message names the step.
    """
    told = versions["input"]
    known: Columns | None = {
        name: kind for name, kind in told["columns"].items() if name not in (ID, META)
    }
    for step in steps:
        operator = make_operator(step.name, step.options, spec.seed)
        wrong = wrong_field(operator.options, known, told["ref"]) if known else None
        wrong = wrong or wrong_dataset(step, operator, versions)
        if wrong is not None:
            raise PipelineError(
                f"step {step.number}: {step.name}: {wrong}", param="params.pipeline"
            )
        known = operator.columns_after(known) if known else None


def stages_of(steps: list[StepSpec]) -> list[list[StepSpec]]:
    """Return steps in parts, each of which a shard goes through by itself.

    An operator that compares all records ends its part.
    """
    stages: list[list[StepSpec]] = [[]]
    for step in steps:
        stages[-1].append(step)
        if issubclass(find_operator(step.name), Collective):
            stages.append([])
    return stages


def _step(given: str | dict[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    if len(given) != 1:
        raise PipelineError(
            f"step {number} must be an operator's name, or one name and its options: "
            "`- length: {least: 20}`",
            param="steps",
        )
    ((name, options),) = given.items()
    if options is None:
        return name, {}
    if not isinstance(options, dict):
        raise PipelineError(f"step {number}: the options of {name[:80]} must be a mapping")
    return name, options


def _complaint(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"][:2])
    if first["type"] == "extra_forbidden":
        known = ", ".join(PipelineSpec.model_fields)
        return f"a pipeline has no key {key[:80]!r}: its keys are {known}"
    if first["type"] == "missing":
        return f"the pipeline has no {key!r}"
    return f"{key}: {first['msg']}"
