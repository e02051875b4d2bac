"""Which recipes may have several processes, or pieces of a batch, take a step. Torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmos.training.recipe_sections import ELEMENTWISE_KINDS

if TYPE_CHECKING:
    from llmos.training.recipe import Recipe

WHOLE_BATCH = frozenset({"contrastive", "adversarial", "elbo"})
"""Objectives in which the rows of a batch have to do with one another: negatives, one draw of
noise, a bound of their mean."""
FSDP_OBJECTIVES = frozenset(
    {"causal_lm", "seq2seq", "sequence_classification", "token_classification"}
)
"""Whose losses come from a whole forward pass, in which weights are gathered."""


def check_sharing(recipe: Recipe) -> None:
    """Refuse what cannot be shared.

    Raises:
        ValueError: with what would do.
    """
    if recipe.micro_batch_size is not None and recipe.objective in WHOLE_BATCH:
        raise ValueError(f"objective {recipe.objective} needs whole batches: no micro_batch_size")
    if recipe.processes == 1:
        return
    if recipe.micro_batch_size is not None:
        raise ValueError("micro_batch_size is for one process: use accumulate and a batch_size")
    if recipe.task == "word_vectors":
        raise ValueError("word vectors are learned in one process, by all of its threads")
    if recipe.objective in WHOLE_BATCH:
        raise ValueError(f"objective {recipe.objective} needs whole batches: processes: 1")
    if recipe.parallel != "tensor" and recipe.batch_size < recipe.processes:
        raise ValueError(f"{recipe.processes} processes need a batch_size of as many rows")
    if recipe.parallel != "ddp":
        _check_parts(recipe)


def _check_parts(recipe: Recipe) -> None:
    """Refuse what needs whole weights in each process."""
    if recipe.optimizer.kind not in ELEMENTWISE_KINDS:
        kinds = ", ".join(sorted(ELEMENTWISE_KINDS))
        raise ValueError(
            f"optimizer.kind {recipe.optimizer.kind} needs whole matrices, of which "
            f"parallel: {recipe.parallel} keeps parts: use {kinds}"
        )
    if recipe.parallel == "fsdp" and recipe.objective not in FSDP_OBJECTIVES:
        raise ValueError(f"objective {recipe.objective} needs parallel: ddp")
    if any(section is not None for section in (recipe.robust, recipe.adapter, recipe.distill)):
        raise ValueError("robust, adapter and distill sections need parallel: ddp")
