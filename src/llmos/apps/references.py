"""References in the params of a pipeline's steps, such as ``${train.model}`` and ``${each.seed}``.

A text that is nothing but a reference becomes the value it stands for; within a longer text the
value is written out. ``$${`` is a plain ``${``. A reference is short and what it stands for may be
long, so a `Budget` is asked before anything is written.
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
VALUE_CHARS = 8
"""What the shortest value takes, with what stands around it."""
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


class Budget:
    """How many characters some JSON values may still come to, references written out.

    Args:
        of: what the values are, for messages.
        around: what is spent here is spent there too.
    """

    def __init__(self, num_chars: int, of: str, around: Budget | None = None) -> None:
        self._most = self._left = num_chars
        self._of = of
        self._around = around

    def spend(self, value: Any) -> None:
        """Count a JSON value. Raises PipelineError: it is too much."""
        self._take(VALUE_CHARS + (len(value) if isinstance(value, str) else 0))
        if isinstance(value, dict):
            for key, item in value.items():
                self.spend(key)
                self.spend(item)
        elif isinstance(value, list):
            for item in value:
                self.spend(item)

    def _take(self, num_chars: int) -> None:
        self._left -= num_chars
        if self._left < 0:
            raise PipelineError(
                f"{self._of}, with what references stand for, would have more than "
                f"{self._most:,} characters: upload what is long, and name it by its digest"
            )
        if self._around is not None:
            self._around._take(num_chars)


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


def resolve(value: Any, lookup: Lookup, budget: Budget) -> Any:
    """Return a JSON value with every reference replaced by what ``lookup`` says of it.

    Raises:
        PipelineError: a list, a mapping or null would have to be written into a text; or the value
            is more than the budget.
    """
    match value:
        case str():
            if (reference := whole(value)) is not None:
                found = lookup(reference)
                budget.spend(found)
                return found
            budget.spend(value)
            return _TOKEN.sub(lambda found: _written(found, lookup, budget), value)
        case dict():
            for key in value:
                budget.spend(key)
            return {key: resolve(item, lookup, budget) for key, item in value.items()}
        case list():
            return [resolve(item, lookup, budget) for item in value]
    budget.spend(value)
    return value


def _written(found: re.Match[str], lookup: Lookup, budget: Budget) -> str:
    reference = _reference(found)
    if reference is None:
        return "${"
    value = lookup(reference)
    if not isinstance(value, str | bool | int | float):
        raise PipelineError(f"{reference} is no text or number: it cannot be part of a longer text")
    text = value if isinstance(value, str) else json.dumps(value)
    budget.spend(text)
    return text


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
