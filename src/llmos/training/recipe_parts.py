"""A recipe of several tasks as a recipe for each, as if it were alone. Torch-free."""

from __future__ import annotations

from llmos.training.recipe import OBJECTIVES, Recipe


def parts_of(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return the recipe of each task by itself, the recipe's own first; of one task it alone."""
    if recipe.also is None:
        return (recipe,)
    parts = [_part(recipe, recipe.task, {})]
    for task, section in recipe.also.sections.items():
        parts.append(_part(recipe, task, {"data": section.data, "labels": section.labels}))
    return tuple(parts)


def weights_of(recipe: Recipe) -> tuple[float, ...]:
    """Return how much of the training each task has, in the order of `parts_of`."""
    others = {} if recipe.also is None else recipe.also.sections
    return (1.0, *(section.weight for section in others.values()))


def _part(recipe: Recipe, task: str, own: dict[str, object]) -> Recipe:
    contrastive = recipe.contrastive if task == "embed" else None
    named = {"task": task, "objective": OBJECTIVES[task], "contrastive": contrastive, "also": None}
    return recipe.model_copy(update={**named, **own})
