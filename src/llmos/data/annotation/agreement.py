"""How far annotators agree: Cohen's and Fleiss' kappa, Krippendorff's alpha, F1 of spans. Pure.

An item's labels are a mapping: annotator -> label. Each measure is 1 where all agree, 0 where they
do as often as by chance, and None where it is not defined: nobody could have disagreed.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Literal

from llmos.data.annotation.scheme import Scheme

Labels = Mapping[str, Any]
Level = Literal["nominal", "ordinal", "interval"]
DIGITS = 6
"""That a report tells."""


def cohen_kappa(pairs: Iterable[tuple[Hashable, Hashable]]) -> float | None:
    """Cohen's kappa of two annotators: (p_o - p_e) / (1 - p_e), where p_o is the share of items on
    which they agree and p_e what it would be by chance, each with the shares of labels that they
    gave (Cohen 1960, A Coefficient of Agreement for Nominal Scales).

    Args:
        pairs: of each item that both labelled, their labels.
    """
    counted = Counter(pairs)
    total = sum(counted.values())
    if not total:
        return None
    first: Counter[Hashable] = Counter()
    second: Counter[Hashable] = Counter()
    same = 0
    for (one, other), count in counted.items():
        first[one] += count
        second[other] += count
        same += count if one == other else 0
    chance = sum(first[label] * second[label] for label in first)
    if chance == total * total:
        return None
    return (total * same - chance) / (total * total - chance)


def fleiss_kappa(items: Iterable[Sequence[Hashable]]) -> float | None:
    """Fleiss' kappa: as Cohen's, of any number of annotators, who need not be the same for each
    item; with the shares of labels that all gave together (Fleiss 1971, Measuring Nominal Scale
    Agreement Among Many Raters).

    Args:
        items: the labels of each, the same number n >= 2 everywhere.

    Raises:
        ValueError: they have not the same number, or fewer than two.
    """
    totals: Counter[Hashable] = Counter()
    sizes: set[int] = set()
    num_items, agreed = 0, 0.0
    for labels in items:
        sizes.add(len(labels))
        counts = Counter(labels)
        totals.update(counts)
        agreed += sum(count * (count - 1) for count in counts.values())
        num_items += 1
    if not num_items:
        return None
    if len(sizes) > 1 or min(sizes) < 2:
        raise ValueError("Fleiss' kappa needs the same number of labels, two or more, of each item")
    (raters,) = sizes
    observed = agreed / (num_items * raters * (raters - 1))
    chance = sum((count / (num_items * raters)) ** 2 for count in totals.values())
    return None if math.isclose(chance, 1.0) else (observed - chance) / (1 - chance)


def krippendorff_alpha(items: Iterable[Sequence[Any]], level: Level = "nominal") -> float | None:
    """Krippendorff's alpha: 1 - D_o / D_e, observed over expected disagreement, of any number of
    annotators where some did not label some items (Krippendorff 2011, Computing Krippendorff's
    Alpha-Reliability).

    Args:
        items: the labels of each; those with fewer than two are left out.
        level: how far two labels are apart: nominal, 0 or 1; ordinal, the ranks between them;
            interval, the square of their difference. The last two need numbers.
    """
    coincidences: defaultdict[tuple[Any, Any], float] = defaultdict(float)
    for labels in items:
        if len(labels) < 2:
            continue
        counts = Counter(labels)
        for one, other in itertools.product(counts, counts):
            pairs = counts[one] * (counts[other] - (one == other))
            coincidences[one, other] += pairs / (len(labels) - 1)
    totals: defaultdict[Any, float] = defaultdict(float)
    for (one, _), weight in coincidences.items():
        totals[one] += weight
    total = math.fsum(totals.values())
    if len(totals) < 2:
        return None
    if level == "nominal":
        same = math.fsum(weight for (one, other), weight in coincidences.items() if one == other)
        observed = total - same
        expected = total * total - math.fsum(count * count for count in totals.values())
    else:
        apart = _distances(totals, level)
        observed = math.fsum(weight * apart[pair] for pair, weight in coincidences.items())
        expected = math.fsum(
            totals[one] * totals[other] * distance for (one, other), distance in apart.items()
        )
    return 1 - (total - 1) * observed / expected


def _distances(totals: Mapping[Any, float], level: Level) -> dict[tuple[Any, Any], float]:
    """Return the squared distance of every two labels."""
    values = sorted(totals)
    if level == "interval":
        return {(a, b): float(a - b) ** 2 for a, b in itertools.product(values, values)}
    below = dict(zip(values, itertools.accumulate(totals[value] for value in values), strict=True))
    middle = {value: below[value] - totals[value] / 2 for value in values}
    return {(a, b): (middle[a] - middle[b]) ** 2 for a, b in itertools.product(values, values)}


def span_f1(items: Iterable[Labels]) -> float | None:
    """F1 of the spans of every two annotators against each other, all items and pairs together:
    twice those that both have over all that either has. Where nearly all that could be marked is
    not, kappa comes to the same (Hripcsak and Rothschild 2005, doi:10.1197/jamia.M1733).

    Args:
        items: annotator -> set of spans.
    """
    both = either = 0
    for labels in items:
        for one, other in itertools.combinations(labels.values(), 2):
            both += len(one & other)
            either += len(one) + len(other)
    return 2 * both / either if either else None


def report(scheme: Scheme, items: Iterable[Labels]) -> dict[str, Any]:
    """Return how far the annotators agree on the items that two or more labelled.

    Returns:
        ``{"items", "annotators", "same"}``: same is the share of items with one label only; of
        spans ``{"f1"}``; of several labels ``{"alpha_by_label"}``; of the others ``{"cohen":
        [{"annotators", "items", "kappa"}], "fleiss": {"items", "labels", "kappa"}, "alpha":
        {"nominal", …}}``. Fleiss' is of the items with as many labels as most have.
    """
    found = [labels for labels in items if len(labels) > 1]
    keyed = [{name: _key(scheme, value) for name, value in one.items()} for one in found]
    told: dict[str, Any] = {
        "items": len(found),
        "annotators": len({name for labels in found for name in labels}),
        "same": _rounded(_share(len(set(one.values())) == 1 for one in keyed)),
    }
    if scheme.kind == "spans":
        return told | {"f1": _rounded(span_f1(keyed))}
    if scheme.kind == "text":
        return told
    told |= {"cohen": _cohen(keyed), "fleiss": _fleiss(keyed), "alpha": _alphas(scheme, keyed)}
    if scheme.several:
        told["alpha_by_label"] = {
            label: _rounded(krippendorff_alpha([[label in v for v in o.values()] for o in found]))
            for label in scheme.labels
        }
    return told


def _key(scheme: Scheme, value: Any) -> Hashable:
    """Return a label as something that can be counted."""
    if scheme.kind == "spans":
        return frozenset((one["start"], one["end"], one["label"]) for one in value)
    return value if isinstance(value, str | int) else json.dumps(value)


def _cohen(items: Sequence[Labels]) -> list[dict[str, Any]]:
    pairs: defaultdict[tuple[str, str], list[tuple[Any, Any]]] = defaultdict(list)
    for labels in items:
        for one, other in itertools.combinations(sorted(labels), 2):
            pairs[one, other].append((labels[one], labels[other]))
    return [
        {"annotators": list(who), "items": len(both), "kappa": _rounded(cohen_kappa(both))}
        for who, both in sorted(pairs.items())
    ]


def _fleiss(items: Sequence[Labels]) -> dict[str, Any] | None:
    if not items:
        return None
    sizes = Counter(map(len, items))
    wanted = max(sizes, key=lambda size: (sizes[size], size))
    some = [list(labels.values()) for labels in items if len(labels) == wanted]
    return {"items": len(some), "labels": wanted, "kappa": _rounded(fleiss_kappa(some))}


def _alphas(scheme: Scheme, items: Sequence[Labels]) -> dict[str, float | None]:
    levels: tuple[Level, ...] = ("nominal",)
    if scheme.kind == "rating":
        levels = ("nominal", "ordinal", "interval")
    values = [list(labels.values()) for labels in items]
    return {level: _rounded(krippendorff_alpha(values, level)) for level in levels}


def _share(flags: Iterable[bool]) -> float | None:
    counted = Counter(flags)
    return counted[True] / counted.total() if counted else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
