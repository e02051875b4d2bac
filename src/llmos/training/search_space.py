"""What a search of hyper-parameters tries: which trials, of how many steps, drawn from a seed.

Torch-free, and pure: whoever has a search's params has its trials.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StringConstraints, Tag, ValidationError, model_validator

from llmos.errors import RecipeError
from llmos.training.complaints import sentence
from llmos.training.recipe import Recipe, parse
from llmos.training.recipe_sections import Section

MAX_TRIALS = 256
MAX_PARAMETERS = 32
MAX_KEY_PARTS = 8
MAX_BYTES = 16_384
"""Of a search, and of the recipe that it varies, as JSON: every trial's is made and checked."""
Value = Any
Key = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Bound = Annotated[float, Field(ge=-1e18, le=1e18, allow_inf_nan=False)]


class Range(Section):
    """Numbers from ``low`` to ``high``: evenly, or evenly in their logarithms."""

    low: Bound
    high: Bound
    log: bool = False
    integer: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        return self

    def drawn(self, generator: random.Random) -> float | int:
        """Return one of them."""
        if self.log:
            value = math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = generator.uniform(self.low, self.high)
        return round(value) if self.integer else float(f"{value:.6g}")


Choices = Annotated[
    Annotated[list[Value], Tag("values")] | Annotated[Range, Tag("range")],
    Discriminator(lambda given: "values" if isinstance(given, list) else "range"),
]
"""Not a plain union: what is wrong with one of them is told of that one."""


class SearchSection(Section):
    """A search: what is varied, how, and what is best."""

    method: Literal["grid", "random", "halving"] = "grid"
    parameters: dict[Key, Choices] = Field(min_length=1, max_length=MAX_PARAMETERS)
    """By the recipe's keys (`optimizer.learning_rate`): values, or a range to draw from."""
    trials: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    """Of `random` and `halving`."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    metric: str = "validation_loss"
    """Of those that a training leaves; `test/accuracy` is that of a split."""
    goal: Literal["min", "max"] = "min"
    eta: int = Field(default=3, ge=2, le=16)
    """Of `halving`: one in so many goes on, with as many times the steps."""

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        ranges = [key for key, value in self.parameters.items() if isinstance(value, Range)]
        empty = [key for key, value in self.parameters.items() if value == []]
        deep = [key for key in self.parameters if key.count(".") >= MAX_KEY_PARTS]
        if deep:
            raise ValueError(f"parameters.{deep[0]} has more than {MAX_KEY_PARTS} parts")
        if empty:
            raise ValueError(f"parameters.{empty[0]} has no values")
        if self.method == "grid":
            if ranges:
                raise ValueError(f"a grid needs a list of values for {ranges[0]}")
            if self.trials is not None:
                raise ValueError("trials is for random and halving: a grid tries all")
            count = math.prod(len(value) for value in self._lists())
            if count > MAX_TRIALS:
                raise ValueError(f"the grid has {count} trials, over the limit of {MAX_TRIALS}")
        elif self.trials is None:
            raise ValueError(f"{self.method} needs trials: how many")
        return self

    def _lists(self) -> list[list[Value]]:
        return [value for value in self.parameters.values() if isinstance(value, list)]

    def settings(self) -> list[dict[str, Value]]:
        """Return what each trial sets. A draw hangs on the seed, the trial and the key alone."""
        if self.method == "grid":
            lists = self._lists()
            return [
                dict(zip(self.parameters, one, strict=True)) for one in itertools.product(*lists)
            ]
        assert self.trials is not None
        return [
            {key: self._drawn(key, choices, trial) for key, choices in self.parameters.items()}
            for trial in range(self.trials)
        ]

    def _drawn(self, key: str, choices: list[Value] | Range, trial: int) -> Value:
        generator = random.Random(f"{self.seed}:{trial}:{key}")
        return choices.drawn(generator) if isinstance(choices, Range) else generator.choice(choices)


@dataclass(frozen=True, slots=True)
class Rung:
    """So many trials, trained for a share of the recipe's steps."""

    num_trials: int
    share: float


def rungs(section: SearchSection) -> list[Rung]:
    """Return the rounds of a search, the last with all steps.

    Successive halving (Jamieson & Talwalkar, 2016, arXiv:1502.07943, in the form of Li et al.,
    arXiv:1603.06560, algorithm 1): of n trials one in eta goes on to the next rung, which has eta
    times the steps, until less than eta are left.
    """
    num_trials = len(section.settings())
    if section.method != "halving":
        return [Rung(num_trials, 1.0)]
    last, left = 0, num_trials
    while left >= section.eta:
        last, left = last + 1, left // section.eta
    return [
        Rung(num_trials // section.eta**number, float(section.eta) ** (number - last))
        for number in range(last + 1)
    ]


def trial_recipe(recipe: Mapping[str, Any], settings: Mapping[str, Value], share: float) -> Recipe:
    """Return a trial's recipe: the search's with its settings, and a share of the steps, of which
    warm-up and validations have theirs.

    Raises:
        RecipeError: the settings do not make a recipe.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(recipe))
    for key, value in settings.items():
        *sections, name = key.split(".")
        table = changed
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise RecipeError(f"search.parameters.{key}: {section} is a value, not a section")
        table[name] = value
    whole = parse(changed)
    if share == 1.0:
        return whole
    optimizer = dict(changed["optimizer"])
    optimizer["warmup_steps"] = round(whole.optimizer.warmup_steps * share)
    steps = max(1, round(whole.steps * share))
    every = {name: min(steps, getattr(whole, name)) for name in ("eval_every", "checkpoint_every")}
    return parse({**changed, "optimizer": optimizer, "steps": steps, **every})


def check_size(value: Any, shown: str) -> None:
    """Refuse what is too large to be made and checked for every trial.

    Raises:
        RecipeError: it has over 16 KiB of JSON, or is nested too deeply to tell.
    """
    try:
        num_bytes = len(json.dumps(value, default=str))
    except RecursionError:
        raise RecipeError(f"{shown} is nested too deeply") from None
    if num_bytes > MAX_BYTES:
        raise RecipeError(f"{shown} has {num_bytes} bytes, over the limit of {MAX_BYTES}")


def check_section(section: Any) -> SearchSection:
    """Check a `search` mapping.

    Raises:
        RecipeError: with the offending key.
    """
    if not isinstance(section, dict):
        raise RecipeError("search must be a mapping, with parameters")
    check_size(section, "search")
    try:
        return SearchSection.model_validate(section)
    except ValidationError as error:
        raise RecipeError(f"search: {sentence(error, SearchSection)}") from None


def ranked(values: Sequence[float | None], goal: Literal["min", "max"]) -> list[int]:
    """Return the places of values, the best first; what has none, or none that is a number, comes
    last, and of equal ones the first."""
    sign = 1.0 if goal == "min" else -1.0

    def key(place: int) -> tuple[bool, float]:
        value = values[place]
        is_bad = value is None or not math.isfinite(value)
        return is_bad, 0.0 if value is None or is_bad else sign * value

    return sorted(range(len(values)), key=key)


def metric_of(metrics: Mapping[str, Any], name: str) -> float | None:
    """Return a metric by its path (`test/accuracy`); None where there is none."""
    value: Any = metrics
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None
