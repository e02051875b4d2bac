"""What a model's metrics say of its quality at a task, from 0 to 1.

BLEU and chrF count a hundredth, shares (accuracy, F1, exact match, nDCG, …) as they are. A metric
of the language asked for goes before one of all, and that before the mean of the languages there
are. Of several splits the lowest number counts: the easy ones say least.

Where there is no such metric, a language model's ``exp(-loss)``, the (geometric) mean probability
that it gave the right token, stands in. It depends on the text and the tokenizer, so it says
something only between models that were tested on the same data: see `comparable`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llmos.kernel.router import PRIOR_QUALITY

_SHARES = ("f1", "accuracy", "exact_match")
_RANKING = ("ndcg", "ndcg_at_10", "mrr", "map", "spearman", "accuracy")
METRICS: Mapping[str, tuple[str, ...]] = {
    "translate": ("chrf", "bleu", "exact_match"),
    "classify": _SHARES,
    "entities": _SHARES,
    "embed": _RANKING,
    "rerank": _RANKING,
    "fill_mask": ("accuracy",),
    "answer": ("f1", "exact_match"),
    "rate": ("spearman", "pearson"),
    "parse": ("las", "uas"),
    "chat": ("win_rate", *_SHARES),
    "generate": ("win_rate", *_SHARES),
}
"""Metrics that tell a task's quality, the most telling first."""
_PERCENT = frozenset({"bleu", "chrf"})
_OF_LOSS = frozenset({"chat", "generate"})


@dataclass(frozen=True, slots=True)
class Quality:
    """A number from 0 to 1 and the metric it comes from; of losses the lowest, and ``by_data`` has
    that of each data they were measured on."""

    value: float
    metric: str
    by_data: Mapping[tuple[str, ...], float] = field(default_factory=dict)


def quality(
    metrics: Mapping[str, Any],
    task: str,
    language: str = "",
    data: Sequence[str] = (),
    losses: Mapping[tuple[str, ...], float] = MappingProxyType({}),
) -> Quality | None:
    """Return what ``metrics`` say; None where they say nothing of this task.

    Args:
        metrics: as manifests have them: numbers of the validation split, and one dict per other
            split, which goes before it.
        language: asked for, as ``zh``, of a translation ``en_zh``; empty: any.
        data: names the data that the model was trained and tested on.
        losses: measured on other data since, by what names that.
    """
    outside = {name.removeprefix("validation_"): value for name, value in metrics.items()}
    groups = ([split for split in metrics.values() if isinstance(split, dict)], [outside])
    for metric in METRICS.get(task, ()):
        for splits in groups:
            found = [_value(split, metric, language) for split in splits]
            if values := [value for value in found if value is not None]:
                return Quality(min(values), metric)
    if task not in _OF_LOSS:
        return None
    by_data = {name: math.exp(-loss) for name, loss in losses.items()}
    if data and (loss := _loss(groups)) is not None:
        by_data[tuple(data)] = math.exp(-loss)
    return Quality(min(by_data.values()), "loss", by_data) if by_data else None


def prior(task: str, parameters: int) -> float:
    """Return the quality that a model is taken to have until somebody measures it: of language
    models the larger are better (Kaplan et al. 2020), by a tenth for ten times the parameters."""
    if task not in _OF_LOSS or parameters <= 0:
        return PRIOR_QUALITY
    return min(max(0.3 + 0.1 * math.log10(parameters / 1e6), 0.2), 0.8)


def comparable(found: Sequence[Quality | None]) -> list[float | None]:
    """Return the values of several models, those from losses only on data that all were measured
    on; a value that cannot be compared is as good as unknown."""
    shared: set[tuple[str, ...]] = set()
    if len(found) > 1:
        shared = set.intersection(*(set(one.by_data) if one else set() for one in found))
    return [_compared(one, shared) for one in found]


def _compared(one: Quality | None, shared: Collection[tuple[str, ...]]) -> float | None:
    if one is None or not one.by_data:
        return None if one is None else one.value
    return min((one.by_data[data] for data in shared), default=None)


def _loss(groups: Iterable[Sequence[Mapping[str, Any]]]) -> float | None:
    """Return the highest loss of the first group of splits that has any."""
    for splits in groups:
        found = [_number(split.get("loss")) for split in splits]
        if losses := [loss for loss in found if loss is not None]:
            return max(losses)
    return None


def _value(split: Mapping[str, Any], metric: str, language: str) -> float | None:
    for name in (f"{metric}_{language}", metric) if language else (metric,):
        if (value := _share(split.get(name), metric)) is not None:
            return value
    of_languages = [
        value
        for name, given in split.items()
        if name.startswith(f"{metric}_") and (value := _share(given, metric)) is not None
    ]
    return sum(of_languages) / len(of_languages) if of_languages and not language else None


def _share(value: Any, metric: str) -> float | None:
    number = _number(value)
    if number is None:
        return None
    number = number / 100 if metric in _PERCENT else number
    return number if 0 <= number <= 1 else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) and value >= 0 else None
