"""References in the params of a pipeline's steps, such as ``${train.model}`` and ``${each.seed}``.

A text that is nothing but a reference becomes the value it stands for; within a longer text the
value is written out. ``$${`` is a plain ``${``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from llmos.errors import PipelineError

EACH = "each"
"""What stands before the dot where a value of the step's own fan-out is meant."""
OF_ONE = frozenset({"model", "result"})
OF_ALL = frozenset({"models", "results"})
WITH_KEY = frozenset({"result", "results"})
_TOKEN = re.compile(r"\$\$\{|\$\{([^{}$]*)\}|\$\{")
_PART = re.compile(r"[A-Za-z0-9_-]{1,64}")
_FORMS = (
    "use ${STEP.model}, ${STEP.models}, ${STEP.result.KEY}, ${STEP.results.KEY} or ${each.NAME}"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """``${step.field.path}``; of the step's own fan-out where ``step`` is `EACH`."""

    step: str
    field: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"${{{'.'.join((self.step, self.field, *self.path))}}}"


Lookup = Callable[[Reference], Any]


def find(value: Any, place: str) -> Iterator[tuple[str, Reference]]:
    """Yield every reference in a JSON value with the dotted place it stands at.

    Raises:
        PipelineError: something between ``${`` and ``}`` is none; ``param`` is its place.
    """
    match value:
        case str():
            for match_ in _TOKEN.finditer(value):
                try:
                    reference = _reference(match_)
                except PipelineError as error:
                    error.param = place
                    raise
                if reference is not None:
                    yield place, reference
        case dict():
            for key, item in value.items():
                yield from find(item, f"{place}.{key}")
        case list():
            for index, item in enumerate(value):
                yield from find(item, f"{place}.{index}")


def whole(value: Any) -> Reference | None:
    """Return the reference that a value is and nothing else; None for any other value.

    Raises:
        PipelineError: it looks like one and is none.
    """
    found = _TOKEN.fullmatch(value) if isinstance(value, str) else None
    return _reference(found) if found else None


def resolve(value: Any, lookup: Lookup) -> Any:
    """Return a JSON value with every reference replaced by what ``lookup`` says of it.

    Raises:
        PipelineError: a list, a mapping or null would have to be written into a text.
    """
    match value:
        case str():
            if (reference := whole(value)) is not None:
                return lookup(reference)
            return _TOKEN.sub(lambda found: _written(found, lookup), value)
        case dict():
            return {key: resolve(item, lookup) for key, item in value.items()}
        case list():
            return [resolve(item, lookup) for item in value]
    return value


def _written(found: re.Match[str], lookup: Lookup) -> str:
    reference = _reference(found)
    if reference is None:
        return "${"
    value = lookup(reference)
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise PipelineError(f"{reference} is no text or number: it cannot be part of a longer text")


def _reference(found: re.Match[str]) -> Reference | None:
    """Return what a match means, None for an escaped ``${``. Raises PipelineError."""
    if found[0] == "$${":
        return None
    shown = found.string[found.start() : found.start() + 80]
    if found[1] is None:
        raise PipelineError(
            f"{shown!r} opens a reference that is not closed: write $${{ for a plain ${{"
        )
    step, *rest = found[1].strip().split(".")
    if not rest or not all(_PART.fullmatch(part) for part in (step, *rest)):
        raise PipelineError(f"{found[0][:80]!r} is no reference: {_FORMS}")
    field, *path = rest
    if step == EACH:
        is_good = not path
    else:
        is_good = field in WITH_KEY if path else field in (OF_ONE | OF_ALL) - WITH_KEY
    if not is_good:
        raise PipelineError(f"{found[0][:80]!r} is no reference: {_FORMS}")
    return Reference(step, field, tuple(path))
