"""The models that a choice is among: those the key is for, that can take the request, and whose
answers can stand in for each other's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from llmos.errors import InvalidRequestError, PermissionDeniedError
from llmos.security import policy
from llmos.security.actors import Actor
from llmos.tasks.candidates import Candidate, Catalog
from llmos.tasks.quality import quality
from llmos.tasks.suitability import Need, unsuited

TASK_NAMES: Mapping[str, frozenset[str]] = {
    "chat": frozenset({"chat"}),
    "generate": frozenset({"generate", "chat"}),
    "translate": frozenset({"translate"}),
    "machine_translation": frozenset({"translate"}),
    "classify": frozenset({"classify"}),
    "sentiment": frozenset({"classify"}),
    "entities": frozenset({"entities"}),
    "embed": frozenset({"embed"}),
    "embeddings": frozenset({"embed"}),
    "rerank": frozenset({"rerank"}),
    "fill_mask": frozenset({"fill_mask"}),
    "answer": frozenset({"answer"}),
    "rate": frozenset({"rate"}),
    "parse": frozenset({"parse"}),
}
"""Names that mean a task: those of manifests, and those that models have as their defaults."""
DEFAULT_NAMES: Mapping[str, tuple[str, ...]] = {
    "translate": ("machine_translation", "translate"),
    "classify": ("sentiment", "classify"),
    "embed": ("embeddings", "embed"),
}
"""Under which names a task may have a default; under its own alone, if nothing else is said."""


def allowed(actor: Actor, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return those that the actor's key is for. Raises PermissionDeniedError: it is for none."""
    given = list(candidates)
    found = [one for one in given if all(policy.has_model(actor, name) for name in one.names)]
    if given and not found:
        raise PermissionDeniedError(
            "This key is limited to other models than those to choose from: ask an admin for "
            "another key.",
            param="model",
        )
    return found


def suited(candidates: Sequence[Candidate], need: Need) -> list[Candidate]:
    """Return those that can take the request. Raises InvalidRequestError: none can."""
    reasons = {one.ref: unsuited(one, need) for one in candidates}
    fitting = [one for one in candidates if reasons[one.ref] is None]
    if not fitting and (reason := next(iter(reasons.values()), None)) is not None:
        raise InvalidRequestError(
            f"None of the models to choose from can take this request: {candidates[0].ref} "
            f"{reason.text}.",
            param=reason.param,
        )
    return fitting


def without_doubles(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Leave out quantised versions of others: those run as them where that is right."""
    digests = {one.digest for one in candidates}
    return [one for one in candidates if one.base_digest not in digests]


def alike(
    candidates: Sequence[Candidate], catalog: Catalog, tasks: frozenset[str]
) -> list[Candidate]:
    """Return those that give the labels which the task's default gives, if they give any.

    Raises:
        InvalidRequestError: there is no default, and they give different ones.
    """
    kinds = {one.labels for one in candidates if one.labels}
    if len(kinds) < 2 or tasks == {"rerank"}:
        return list(candidates)
    default = _default(catalog, tasks)
    if default is None or not any(one.labels == default.labels for one in candidates):
        raise InvalidRequestError(
            "The models for this task give different labels "
            f"({'; '.join(sorted(', '.join(sorted(kind)[:5]) for kind in kinds)[:3])}): name one, "
            f"or give the task one with `llmos default {min(tasks)} MODEL`.",
            param="model",
        )
    return [one for one in candidates if one.labels == default.labels]


def steady(candidates: Sequence[Candidate], catalog: Catalog) -> Candidate:
    """Return the one model whose vectors everyone gets, whatever the load: those of two cannot be
    compared. The task's default, else the one of the best measured quality, else the oldest."""
    default = _default(catalog, frozenset({"embed"}))
    if default is not None and default in candidates:
        return default
    measured = {one.ref: quality(one.metrics, one.task) for one in candidates}

    def worth(one: Candidate) -> tuple[float, int]:
        found = measured[one.ref]
        return (found.value if found else -1.0, -one.id)

    return max(candidates, key=worth)


def _default(catalog: Catalog, tasks: frozenset[str]) -> Candidate | None:
    """Return the model that is a task's default, under one of its names."""
    for task in sorted(tasks):
        for name in DEFAULT_NAMES.get(task, (task,)):
            if (given := catalog.defaults.get(name)) is not None:
                wanted = given.model.partition("@")[0].partition(":")[0]
                return next((one for one in catalog.candidates if wanted in one.names), None)
    return None
