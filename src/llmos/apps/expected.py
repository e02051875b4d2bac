"""What can be known of a pipeline's jobs before any of them has run: their params, with something
in the place of what is not made yet, and what will have been measured of the models. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from llmos.apps.pipelines import Pipeline, Step, expanded, run_budget, unresolved
from llmos.apps.references import EACH, OF_ALL, Budget, Reference, find, whole
from llmos.compression.jobs import QUANTIZE
from llmos.errors import InvalidRequestError
from llmos.evaluation.jobs import EVALUATE, METRICS, asked_of, dataset_of
from llmos.library.gates import parse_gates
from llmos.training.jobs import TRAIN

OF_LOSS = frozenset({"generate", "chat", "fill_mask", "word_vectors"})
"""Tasks of which a training measures on a split what its objective has to tell."""


def expected(step: Step, budget: Budget) -> list[dict[str, Any]]:
    """Return the params of each job of a step; one job where a list is made by another step. What
    is made by another step is that step's name, as good as any model's. Raises as `expanded`."""
    each = {name: _one_value(values) for name, values in step.each.items()}
    return expanded(dataclasses.replace(step, each=each), _stand_in, budget)


def check_gates(pipeline: Pipeline, step: Step, params: dict[str, Any]) -> None:
    """Refuse gates of a deploy step on what nothing will have measured of the model by then.

    Args:
        params: of one of its jobs, as `expected`.

    Raises:
        InvalidRequestError: a gate is on a metric that the step which makes the model does not
            leave, and no evaluate step before measures.
    """
    maker = _maker(pipeline, step)
    for gate in parse_gates(params.get("gates") or ()):
        if maker is None or _leaves(maker, gate.metric):
            continue
        if not will_be_measured(pipeline, step, gate.metric):
            dataset, slash, _ = gate.metric.partition("/")
            hint = f" on a dataset {dataset!r}" if slash else ""
            raise InvalidRequestError(
                f"{gate.metric!r} will not have been measured of {step.params['model']}: it needs "
                f"an evaluate step of that model{hint} that this one waits for (`after`), and a "
                "metric of its task",
                param="gates",
            )


def will_be_measured(pipeline: Pipeline, step: Step, metric: str) -> bool:
    """Whether an evaluate step that this one waits for measures ``metric``, of the model that it
    names, as far as one can tell."""
    return any(
        one.kind == EVALUATE and _is_of(one, step) and _measures(one, _maker(pipeline, one), metric)
        for one in _before(pipeline, step)
    )


def _measures(one: Step, maker: Step | None, metric: str) -> bool:
    """Whether an evaluate step may measure a metric; those of further tasks of a model are called
    ``task/dataset/name``."""
    task = one.params.get("task")
    if any(find(task, "")):
        return True
    first = _about_trained(maker).get("task")
    is_further = task is not None and task != first
    if is_further and metric.startswith(f"{task}/"):
        metric = metric.removeprefix(f"{task}/")
    elif is_further and first is not None:
        return False
    dataset, _, name = metric.partition("/")
    return _is_on(one, dataset) and _is_for(maker, name, task)


def _one_value(values: Any) -> Any:
    """Return a list that another step makes as one of a single value."""
    reference = whole(values)
    return values if reference is None else [reference.step]


def _stand_in(reference: Reference) -> Any:
    return [reference.step] if reference.field in OF_ALL else reference.step


def _before(pipeline: Pipeline, step: Step) -> Iterator[Step]:
    """Yield every step that must have ended before this one starts."""
    by_name = {one.name: one for one in pipeline.steps}
    unseen, seen = list(step.after), set[str]()
    while unseen:
        name = unseen.pop()
        if name not in seen:
            seen.add(name)
            unseen += by_name[name].after
            yield by_name[name]


def _maker(pipeline: Pipeline, step: Step) -> Step | None:
    """Return the step that makes the model which this one names; None: that is not known."""
    reference = whole(step.params.get("model"))
    if reference is not None and reference.step == EACH:
        reference = whole(step.each.get(reference.field))
    if reference is None or reference.path:
        return None
    return next((one for one in pipeline.steps if one.name == reference.step), None)


def _leaves(maker: Step, metric: str) -> bool:
    """Whether making a model may leave this metric in its manifest."""
    outer, _, name = metric.partition("/")
    if maker.kind == QUANTIZE:
        return outer == "quantization"
    if maker.kind != TRAIN:
        return True
    if not name:
        return metric in ("validation_loss", "perplexity")
    recipe = maker.params.get("recipe")
    if outer == "forgetting":
        return not isinstance(recipe, dict) or recipe.get("replay") is not None
    evaluate = recipe.get("evaluate") if isinstance(recipe, dict) else None
    splits = evaluate.get("splits") if isinstance(evaluate, dict) else ()
    if not isinstance(splits, list | tuple):  # a reference
        return True
    if isinstance(recipe, dict) and isinstance(also := recipe.get("also"), dict):
        split, _, own = name.partition("/")
        is_one = outer in (recipe.get("task"), *also) and split in ("validation", *splits)
        return is_one and bool(own)
    measures_its_own = _about(maker).get("task") in OF_LOSS
    return outer in splits and (name == "rows" or measures_its_own or _is_for(maker, name))


def _about(maker: Step) -> dict[str, Any]:
    """Return the task and the kind of network of what a train step makes, as far as they are known,
    as its manifest will have them."""
    recipe = maker.params.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("task"), str):
        return {}
    model = recipe.get("model")
    architecture = model.get("architecture") if isinstance(model, dict) else None
    return {"task": recipe["task"], "model_type": architecture}


def _about_trained(maker: Step | None) -> dict[str, Any]:
    return _about(maker) if maker is not None and maker.kind == TRAIN else {}


def _is_of(one: Step, step: Step) -> bool:
    """Whether an evaluate step may be of the model that a step names."""
    if one.each or step.each:
        return True
    names = (one.params.get("model"), step.params.get("model"))
    return names[0] == names[1] or None in map(whole, names)


def _is_on(one: Step, dataset: str) -> bool:
    """Whether an evaluate step may be on a dataset."""
    named_by = "dataset" if one.params.get("dataset") else "data"
    if named_by in unresolved(one):
        return True
    named = {key: value for key, value in one.params.items() if key == named_by}
    jobs = expected(dataclasses.replace(one, params=named), run_budget())
    try:
        return any(dataset_of(params) == dataset for params in jobs)
    except InvalidRequestError:  # it is refused for itself
        return True


def _is_for(maker: Step | None, name: str, task: Any = None) -> bool:
    """Whether a model that a step makes may have this metric, of one of its tasks where that is
    given."""
    about = _about_trained(maker)
    found = METRICS.get(str(task) if task else asked_of(about)) if task or about else None
    return any(one.fullmatch(name) for one in ([found] if found else METRICS.values()))
