"""Trained versions beside each other: where their recipes differ, and what they came to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Values = tuple[Any, ...]
"""One for each version, None where it has none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Versions, and by key or metric what each of them has."""

    refs: tuple[str, ...]
    recipe: dict[str, Values]
    """Keys of recipes that are not the same everywhere; None: the recipe has its default."""
    metrics: dict[str, Values]
    """Every number that was measured of any of them."""

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON: ``{"models", "recipe": {key: {model: value}}, "metrics": …}``."""
        return {
            "models": list(self.refs),
            "recipe": {key: self._by_ref(values) for key, values in self.recipe.items()},
            "metrics": {key: self._by_ref(values) for key, values in self.metrics.items()},
        }

    def _by_ref(self, values: Values) -> dict[str, Any]:
        return dict(zip(self.refs, values, strict=True))


def compare(models: Sequence[Mapping[str, Any]]) -> Comparison:
    """Compare versions as ``Client.model`` returns them; one without a recipe has no keys."""
    manifests = [model["manifest"] for model in models]
    recipes = [dict(_flat(manifest.get("recipe") or {})) for manifest in manifests]
    facts = [{"parameters": manifest.get("parameters")} for manifest in manifests]
    trained = [{"seconds": (one.get("source") or {}).get("seconds")} for one in manifests]
    measured = [dict(_flat(manifest.get("metrics") or {})) for manifest in manifests]
    found = [
        {name: number for name, number in (fact | time | metrics).items() if _is_number(number)}
        for fact, time, metrics in zip(facts, trained, measured, strict=True)
    ]
    keys = {key: tuple(recipe.get(key) for recipe in recipes) for key in _all_keys(recipes)}
    return Comparison(
        refs=tuple(str(model["ref"]) for model in models),
        recipe={key: values for key, values in keys.items() if _differ(values)},
        metrics={key: tuple(one.get(key) for one in found) for key in _all_keys(found)},
    )


def points_of(events: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Return what a job measured, a point a step, in order. An attempt that went on from an earlier
    step than the last one had come to measured some anew: those count."""
    points: dict[float, dict[str, float]] = {}
    for event in events:
        if event["type"] == "metric":
            step = float(event["data"]["step"])
            for later in [known for known in points if known > step]:
                del points[later]
            points[step] = {"step": step, **event["data"]["values"]}
    return list(points.values())


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``a.b.c`` and its value for everything in nested mappings."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _all_keys(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of all, in the order in which they come."""
    return list(dict.fromkeys(key for table in tables for key in table))


def _differ(values: Values) -> bool:
    return any(value != values[0] for value in values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
