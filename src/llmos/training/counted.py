"""What a recipe leaves out that does not train by the common steps: an n-gram model, which is
counted, and word vectors, whose steps are told by their own section. Torch-free."""

from __future__ import annotations

from typing import Any

from llmos.errors import RecipeError

NGRAM, WORD_VECTORS = "ngram", "word_vectors"
MAX_ORDER = 6
ORDER, EPOCHS = 5, 5
"""Unless told."""
BATCH_ROWS = 32
"""Of an evaluation."""
BATCH_WORDS = 512
"""Of a step of gradient descent for word vectors."""
UNUSED = (
    "accumulate",
    "distill",
    "parallel",
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
    "keep_at",
    "save_dtype",
)


def filled(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return what such a recipe leaves out; nothing for any other.

    Raises:
        RecipeError: the recipe gives something that there is no use for.
    """
    model = recipe.get("model")
    if not isinstance(model, dict):
        return {}
    architecture = model.get("architecture")
    if architecture == NGRAM:
        return _filled(recipe, "generate", _order(model), BATCH_ROWS, "is counted")
    if architecture == WORD_VECTORS or recipe.get("task") == "word_vectors":
        section = recipe.get("vectors")
        epochs = section.get("epochs", EPOCHS) if isinstance(section, dict) else EPOCHS
        if architecture != WORD_VECTORS:
            raise RecipeError(f"task word_vectors needs model.architecture {WORD_VECTORS}")
        if type(epochs) is not int or epochs < 1:
            raise RecipeError(f"vectors.epochs must be a whole number above 0, not {epochs!r}")
        return _filled(recipe, "word_vectors", epochs, BATCH_WORDS, "has a section vectors")
    return {}


def is_counted(architecture: str | None) -> bool:
    """Whether a network's weights are counts."""
    return architecture == NGRAM


def _order(model: dict[str, Any]) -> int:
    config = model.get("config")
    order = config.get("order", ORDER) if isinstance(config, dict) else ORDER
    if type(order) is not int or not 1 <= order <= MAX_ORDER:
        raise RecipeError(f"model.config.order must be 1 to {MAX_ORDER}, not {order!r}")
    return order


def _filled(
    recipe: dict[str, Any], task: str, steps: int, batch_size: int, why: str
) -> dict[str, Any]:
    architecture = recipe["model"]["architecture"]
    objective = "causal_lm" if task == "generate" else task
    if recipe.get("task") != task:
        raise RecipeError(f"model.architecture {architecture} is for task {task}")
    if recipe.get("objective", objective) != objective:
        raise RecipeError(f"model.architecture {architecture} has no objective but {objective}")
    fixed = {"steps": steps, "optimizer": {"learning_rate": 1.0}}
    given = [key for key in UNUSED if key in recipe]
    given += [key for key, value in fixed.items() if recipe.get(key, value) != value]
    if given:
        raise RecipeError(
            f"model.architecture {architecture} {why}, and takes no {given[0]}: leave it out"
        )
    return {**fixed, "batch_size": batch_size}
