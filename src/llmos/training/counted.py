"""What a recipe says of an n-gram model, which is counted and not trained by steps. Torch-free."""

from __future__ import annotations

from typing import Any

from llmos.errors import RecipeError

ARCHITECTURE = "ngram"
MAX_ORDER = 6
ORDER = 5
"""Unless told."""
BATCH_ROWS = 32
"""Of an evaluation."""
UNUSED = (
    "accumulate",
    "processes",
    "micro_batch_size",
    "precision",
    "activation_checkpointing",
    "packing",
    "label_smoothing",
    "robust",
    "early_stopping",
    "ema",
    "adapter",
    "eval_every",
    "checkpoint_every",
    "save_dtype",
)


def filled(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what a recipe that counts leaves out: a step is a length of n-grams.

    Raises:
        RecipeError: the recipe gives something that counting has no use for.
    """
    model = recipe.get("model")
    if not isinstance(model, dict) or model.get("architecture") != ARCHITECTURE:
        return {}
    if recipe.get("task") != "generate":
        raise RecipeError("an n-gram model is for task generate")
    if recipe.get("objective", "causal_lm") != "causal_lm":
        raise RecipeError("an n-gram model has no objective but causal_lm")
    config = model.get("config")
    order = config.get("order", ORDER) if isinstance(config, dict) else ORDER
    if type(order) is not int or not 1 <= order <= MAX_ORDER:
        raise RecipeError(f"model.config.order must be 1 to {MAX_ORDER}, not {order!r}")
    fixed = {"steps": order, "optimizer": {"learning_rate": 1.0}}
    given = [key for key in UNUSED if key in recipe]
    given += [key for key, value in fixed.items() if recipe.get(key, value) != value]
    if given:
        raise RecipeError(f"an n-gram model is counted, not trained by steps: leave out {given[0]}")
    return {**fixed, "batch_size": BATCH_ROWS}


def is_counted(architecture: str | None) -> bool:
    """Whether a network's weights are counts."""
    return architecture == ARCHITECTURE
