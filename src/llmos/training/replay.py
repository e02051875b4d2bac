"""Going on from a model with new data beside some of the old: the mix of each batch, how long a
micro-update takes, and how much of the old was forgotten.

Replaying old examples is experience replay (Rolnick et al., arXiv:1811.11682); what is forgotten is
measured as in Lopez-Paz and Ranzato (arXiv:1706.08840): on the old data, before and after.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from llmos.data.encoding import Columns, IntArray, Ragged
from llmos.training.objectives import Objective
from llmos.training.preparation import Prepared
from llmos.training.recipe import Recipe
from llmos.training.sampling import Draws, EpochSampler, Sampler, StreamSampler
from llmos.training.validation import evaluation_batches, means

STREAM = "tokens"
"""The column of a running text, whose rows are positions in it."""


@dataclass(frozen=True, slots=True)
class MixedSampler:
    """Batches of which some rows are new and the others old ones, which stand behind the new.

    Which rows a step takes is a pure function of (seed, step), as of both samplers.
    """

    new: Sampler
    old: Sampler
    first_old: int

    def rows(self, step: int) -> IntArray:
        return np.concatenate([self.new.rows(step), self.old.rows(step) + self.first_old])


def old_recipe(recipe: Recipe) -> Recipe:
    """Return the recipe by which the old data is read."""
    return recipe.model_copy(update={"data": recipe.replay, "replay": None, "online": None})


def mixed(
    recipe: Recipe, objective: Objective, new: Columns, old: Columns | None, begin: int = 0
) -> tuple[Columns, Sampler | None]:
    """Return what is trained on, and which rows of it a step takes where that is not as ever.

    Args:
        begin: another number has other old rows replayed; see `Taken.after` of a micro-update.
    """
    replay = recipe.replay
    if old is None or replay is None:
        return new, None
    seed, num_old = (recipe.seed + begin) % 2**63, replay.rows_of(recipe.batch_size)
    of_new = _sampler(recipe, new, recipe.batch_size - num_old, seed)
    if num_old == 0:
        return new, _drawing(of_new, objective, new, recipe)
    sampler = MixedSampler(of_new, _sampler(recipe, old, num_old, seed), _size(new))
    if STREAM in new:
        flat = np.concatenate([new[STREAM].flat, old[STREAM].flat])
        return {STREAM: Ragged.of([flat])}, sampler
    both = {name: _behind(column, old[name]) for name, column in new.items()}
    return both, _drawing(sampler, objective, both, recipe)


def shortened(recipe: Recipe, new: Columns) -> Recipe:
    """Return a micro-update's recipe with as few steps as see each new row `online.epochs` times,
    if those are fewer; another recipe as it is."""
    if recipe.online is None or recipe.replay is None:
        return recipe
    num_rows = _size(new)
    if STREAM in new:
        num_rows = max(1, num_rows // recipe.block_size)
    per_step = recipe.accumulate * (recipe.batch_size - recipe.replay.rows_of(recipe.batch_size))
    steps = math.ceil(recipe.online.epochs * num_rows / per_step)
    return recipe.model_copy(update={"steps": min(recipe.steps, steps)})


@dataclass(frozen=True, slots=True)
class Memory:
    """What a model is asked before it learns and again afterwards: losses of held-back rows, new
    and old.

    Attributes:
        path: where what was measured before the first step is kept between attempts.
    """

    old: Prepared
    path: Path
    batch_rows: int

    def note(self, model: PreTrainedModel, objective: Objective, new: Columns) -> None:
        """Measure a model that has not learned anything yet, once."""
        if not self.path.exists():
            partial = self.path.with_suffix(".partial")
            partial.write_text(json.dumps(self._losses(model, objective, new)))
            partial.rename(self.path)

    def report(
        self, model: PreTrainedModel, objective: Objective, new: Columns
    ) -> dict[str, float]:
        """Return ``{"old_before", "old_after", "old_rise", "new_before", "new_after"}``: losses,
        and how much that of the old data rose, which is what was forgotten."""
        before = json.loads(self.path.read_text())
        after = self._losses(model, objective, new)
        told = {f"{name}_before": before[name] for name in before}
        told |= {f"{name}_after": after[name] for name in after}
        return dict(sorted(told.items())) | {"old_rise": after["old"] - before["old"]}

    def _losses(
        self, model: PreTrainedModel, objective: Objective, new: Columns
    ) -> dict[str, float]:
        columns = {"old": self.old.validation, "new": new}
        return {
            name: means(
                model, objective, rows, evaluation_batches(objective, rows, self.batch_rows)
            )["loss"]
            for name, rows in columns.items()
        }


def _drawing(sampler: Sampler, objective: Objective, columns: Columns, recipe: Recipe) -> Sampler:
    """Return the sampler, with the numbers of steps where the objective's own has them."""
    own = objective.sampler(columns, recipe.batch_size, recipe.seed)
    return Draws(sampler, own.num_rows) if isinstance(own, Draws) else sampler


def _sampler(recipe: Recipe, columns: Columns, batch_size: int, seed: int) -> Sampler:
    if STREAM in columns:
        return StreamSampler(_size(columns), recipe.block_size, batch_size, seed)
    return EpochSampler(_size(columns), batch_size, seed)


def _size(columns: Columns) -> int:
    """Return how many examples there are, or positions of a running text."""
    if STREAM in columns:
        return len(columns[STREAM].flat)
    return len(next(iter(columns.values())))


def _behind(first: Ragged, second: Ragged) -> Ragged:
    """Return the rows of both."""
    flat = np.concatenate([first.flat, second.flat])
    return Ragged(flat, np.concatenate([first.offsets, second.offsets[1:] + len(first.flat)]))
