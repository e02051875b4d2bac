"""What a pipeline is: named steps that are jobs, what each waits for, how often each is made.

`parse` turns the YAML's plain values into a Pipeline, or says in which line what is wrong with
them. It knows no job kind and no model; `checking` asks those who do.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llmos.apps.references import (
    EACH,
    OF_ALL,
    OF_ONE,
    Budget,
    Lookup,
    Reference,
    find,
    resolve,
    whole,
)
from llmos.errors import LlmosError, PipelineError
from llmos.sdk.wire import PriorityName
from llmos.training.complaints import WANTED

MAX_STEPS = 100
MAX_JOBS = 500
"""Of one run, those of all its steps together."""
MAX_NAME_CHARS = 128
MAX_VALUES = 50_000
"""Written down in one pipeline."""
MAX_SOURCE_BYTES = 4 * 2**20
"""Of one pipeline as JSON, its line numbers included."""
MAX_JOB_CHARS = 2**20
"""Of the params of one job, references written out."""
MAX_RUN_CHARS = 16 * 2**20
"""Of all a run's jobs together, and of what they fan out over."""
_STEP_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")

Names = Annotated[
    list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


class StepSource(BaseModel):
    """A step as it is written down."""

    model_config = ConfigDict(extra="forbid", strict=True)
    kind: str = Field(min_length=1)
    params: dict[str, Any] = {}
    after: Names = []
    each: dict[str, Any] = {}


class PipelineSource(BaseModel):
    """A pipeline as it is written down; ``lines`` says in which line of a file each key stands."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field(min_length=1, max_length=MAX_NAME_CHARS)
    priority: PriorityName = "background"
    steps: dict[str, StepSource] = Field(min_length=1, max_length=MAX_STEPS)
    lines: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Lines:
    """Where in a file the keys of a pipeline stand: dotted path -> line, from 1."""

    by_path: Mapping[str, int]

    def at(self, path: str) -> int | None:
        """Return the line of a key, else of the nearest key around it; None where none is known."""
        while path and path not in self.by_path:
            path = path.rpartition(".")[0]
        return self.by_path.get(path)

    def error(self, path: str, message: str) -> PipelineError:
        """Return the error for a key: its message begins with the line."""
        return PipelineError(self._with_line(path, message), param=path)

    def located(self, path: str, error: LlmosError) -> LlmosError:
        """Return ``error``, whatever it is, with the line before its message and the key as its
        ``param``."""
        error.message, error.param = self._with_line(path, error.message), path
        error.args = (error.message,)
        return error

    def _with_line(self, path: str, message: str) -> str:
        line = self.at(path)
        return message if line is None else f"line {line}: {message}"


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a job, or one for each combination of the values in ``each``.

    ``after`` has every step it waits for, those that its references imply included.
    """

    name: str
    kind: str
    params: dict[str, Any]
    after: tuple[str, ...]
    each: dict[str, Any]

    @property
    def place(self) -> str:
        """Where it stands in the pipeline."""
        return f"steps.{self.name}"

    @property
    def num_jobs(self) -> int | None:
        """How many jobs it makes; None where that depends on what other steps make."""
        if not all(isinstance(values, list) for values in self.each.values()):
            return None
        return math.prod(map(len, self.each.values()))

    def label(self, number: int) -> str:
        """Return the name of its job ``number``, from 0: ``train``, or ``sweep[2]``."""
        return f"{self.name}[{number}]" if self.each else self.name


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A checked pipeline; every step stands after all that it waits for."""

    name: str
    priority: PriorityName
    steps: tuple[Step, ...]
    lines: Lines


def parse(source: Mapping[str, Any]) -> Pipeline:
    """Return the pipeline that plain values describe.

    Raises:
        PipelineError: a key is unknown, missing or of the wrong type; a step has a bad name, or
            waits for one that is not there or for itself; a reference leads nowhere; there would
            be too many jobs. The message begins with the line and names the key.
    """
    given = source.get("lines")
    known = given if isinstance(given, dict) else {}
    lines = Lines({path: n for path, n in known.items() if type(n) is int})
    try:
        written = PipelineSource.model_validate(dict(source))
    except ValidationError as error:
        raise lines.error(*_finding(error)) from None
    if not written.name.isprintable() or not written.name.strip():
        raise lines.error("name", f"name must be 1 to {MAX_NAME_CHARS} printable characters")
    steps = [_step(name, step, written.steps, lines) for name, step in written.steps.items()]
    ordered = _ordered(steps, lines)
    _check_number(ordered, lines)
    return Pipeline(written.name, written.priority, ordered, lines)


def check_size(source: Mapping[str, Any]) -> None:
    """Refuse plain values that are too many, or too long, for a pipeline. Raises PipelineError."""
    num_bytes = len(msgspec.json.encode(source))
    if num_bytes > MAX_SOURCE_BYTES:
        raise PipelineError(
            f"the pipeline has {num_bytes:,} bytes as JSON, over the limit of "
            f"{MAX_SOURCE_BYTES:,}: upload what is long, and name it by its digest"
        )
    num_values = sum(_num_values(value) for key, value in source.items() if key != "lines")
    if num_values > MAX_VALUES:
        raise PipelineError(
            f"the pipeline has {num_values:,} values, over the limit of {MAX_VALUES:,}"
        )


def _num_values(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_num_values, items))


def run_budget() -> Budget:
    """Return what the jobs of one run may take, see `expanded`."""
    return Budget(MAX_RUN_CHARS, "the params of all jobs")


def expanded(step: Step, lookup: Lookup, budget: Budget) -> list[dict[str, Any]]:
    """Return the params of each job that a step makes, in the order of its values.

    Args:
        lookup: what references to other steps stand for.
        budget: the run's, for all its steps.

    Raises:
        PipelineError: a reference in ``each`` does not stand for a list of values; or the params
            of one job, or of all jobs, are too long.
    """
    values = {}
    for name, value in step.each.items():
        values[name] = resolve(value, lookup, budget)
        if not isinstance(values[name], list) or not values[name]:
            raise PipelineError(
                f"step {step.name}: each.{name} must be a list of values, not "
                f"{json.dumps(values[name], ensure_ascii=False)[:80]}"
            )
    if math.prod(map(len, values.values())) > MAX_JOBS:
        raise PipelineError(
            f"step {step.name} would make over {MAX_JOBS} jobs, which is all a run may have"
        )
    return [
        resolve(
            step.params,
            _with_each(dict(zip(values, combination, strict=True)), lookup),
            Budget(MAX_JOB_CHARS, f"the params of a job of step {step.name}", budget),
        )
        for combination in itertools.product(*values.values())
    ]


def unresolved(step: Step) -> frozenset[str]:
    """Return the keys of a step's params whose values depend on what other steps make."""
    from_steps = {name for name, value in step.each.items() if [*find(value, name)]}

    def waits(value: Any) -> bool:
        return any(
            reference.step != EACH or reference.field in from_steps
            for _, reference in find(value, "")
        )

    return frozenset(key for key, value in step.params.items() if waits(value))


def _with_each(values: Mapping[str, Any], lookup: Lookup) -> Lookup:
    return lambda ref: values[ref.field] if ref.step == EACH else lookup(ref)


def _step(name: str, source: StepSource, steps: Mapping[str, StepSource], lines: Lines) -> Step:
    """Return one step with all it waits for, once its references are known to lead somewhere."""
    place = f"steps.{name}"
    if not _STEP_NAME.fullmatch(name) or name == EACH:
        raise lines.error(
            place,
            f"{name[:80]!a} cannot be a step's name: use up to 64 letters, digits, '_' and '-', "
            "a letter first, and not 'each'",
        )
    awaited = set()
    for index, other in enumerate(source.after):
        if other not in steps:
            raise lines.error(f"{place}.after.{index}", _no_step(other, steps))
        awaited.add(other)
    try:
        found = [*find(source.params, f"{place}.params"), *find(source.each, f"{place}.each")]
    except PipelineError as error:
        raise lines.located(error.param or place, error) from None
    for key, values in source.each.items():
        _check_values(f"{place}.each.{key}", key, values, lines)
    for at, reference in found:
        if reference.step != EACH:
            _check_reference(at, reference, steps, lines)
            awaited.add(reference.step)
        elif at.startswith(f"{place}.each.") or reference.field not in source.each:
            has = ", ".join(source.each) or "none"
            raise lines.error(at, f"{reference} names no value of this step's each: it has {has}")
    after = tuple(other for other in steps if other in awaited)
    return Step(name, source.kind, source.params, after, source.each)


def _check_reference(
    at: str, reference: Reference, steps: Mapping[str, StepSource], lines: Lines
) -> None:
    target = steps.get(reference.step)
    if target is None:
        raise lines.error(at, f"{reference}: {_no_step(reference.step, steps)}")
    if target.each and reference.field in OF_ONE:
        of_all = Reference(reference.step, f"{reference.field}s", reference.path)
        raise lines.error(
            at,
            f"{reference}: step {reference.step} makes several jobs. {of_all} is the list of all; "
            "put that under each to go on with every one of them",
        )


def _check_values(at: str, key: str, values: Any, lines: Lines) -> None:
    """Refuse what is neither a list of different values nor a reference to one."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key):
        raise lines.error(at, f"{key[:80]!a} cannot be a name: use letters, digits, '_' and '-'")
    reference = whole(values)
    if reference is not None and reference.field != "model":
        return
    if not isinstance(values, list) or not values:
        raise lines.error(
            at,
            f"each.{key} must be a list of at least one value, or all that a step made: "
            "${STEP.models}",
        )
    seen = set()
    for index, value in enumerate(values):
        text = json.dumps(value, sort_keys=True, ensure_ascii=False)
        if text in seen:
            raise lines.error(f"{at}.{index}", f"each.{key} has the value {text[:80]} twice")
        seen.add(text)


def _ordered(steps: list[Step], lines: Lines) -> tuple[Step, ...]:
    """Return the steps so that each comes after what it waits for, else as they were written.

    Raises:
        PipelineError: some wait for each other.
    """
    left, done, ordered = list(steps), set[str](), list[Step]()
    while left:
        ready = next((step for step in left if done.issuperset(step.after)), None)
        if ready is None:
            cycle = _cycle({step.name: [a for a in step.after if a not in done] for step in left})
            raise lines.error(
                f"steps.{cycle[0]}", f"these steps wait for each other: {' -> '.join(cycle)}"
            )
        left.remove(ready)
        done.add(ready.name)
        ordered.append(ready)
    return tuple(ordered)


def _cycle(awaited: Mapping[str, list[str]]) -> list[str]:
    """Return a way from a step back to itself, where every step waits for another of them."""
    path = [next(iter(awaited))]
    while (following := awaited[path[-1]][0]) not in path:
        path.append(following)
    return [*path[path.index(following) :], following]


def _check_number(steps: Iterable[Step], lines: Lines) -> None:
    """Refuse more jobs than a run may have, as far as their number is known before it runs."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.name] = math.prod(_length(value, counts) for value in step.each.values())
        if sum(counts.values()) > MAX_JOBS:
            raise lines.error(
                f"{step.place}.each" if step.each else step.place,
                f"with step {step.name} the run would have {sum(counts.values())} jobs, "
                f"over the limit of {MAX_JOBS}",
            )


def _length(values: Any, counts: Mapping[str, int]) -> int:
    if isinstance(values, list):
        return len(values)
    reference = whole(values)
    return counts[reference.step] if reference and reference.field in OF_ALL else 1


def _no_step(name: str, steps: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(steps), n=1, cutoff=0.0)
    return f"there is no step {name[:80]!r}; did you mean {near[0]!r}?"


def _finding(error: ValidationError) -> tuple[str, str]:
    """Return the path and the description of what pydantic found first, unknown keys before all."""
    first = min(error.errors(), key=lambda finding: finding["type"] != "extra_forbidden")
    path = [str(part) for part in first["loc"]]
    in_step = path[0] == "steps" and len(path) > 2
    where, schema = (f"step {path[1]}", StepSource) if in_step else ("a pipeline", PipelineSource)
    if first["type"] == "extra_forbidden":
        known = [name for name in schema.model_fields if name != "lines"]
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        text = f"{where} has no key {path[-1][:80]!r}: {hint}"
    elif first["type"] == "missing":
        text = f"{where} needs the key {path[-1]!r}"
    elif first["type"] in WANTED:
        text = f"{'.'.join(path)} must be {WANTED[first['type']]}"
    else:
        text = f"{'.'.join(path)}: {first['msg'][:1].lower()}{first['msg'][1:]}"
    return ".".join(path), text
