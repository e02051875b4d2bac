"""Counts n-grams and estimates interpolated modified Kneser-Ney from them.

S. F. Chen and J. Goodman, 1998, An Empirical Study of Smoothing Techniques for Language Modeling,
section 3.1 (equations 26 and 30). The same text always gives the same tables, so an attempt that
was killed is simply made anew.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from llmos.data.encoding import Columns, IntArray
from llmos.errors import CancelledError
from llmos.models.ngram import NgramConfig, NgramForCausalLM
from llmos.training.checkpoint import Progress
from llmos.training.objectives import Objective
from llmos.training.recipe import Recipe
from llmos.training.trainer import Context
from llmos.training.validation import evaluation_batches, mean_loss

FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)
"""Where counts of counts give none: a text too short or too regular for them."""
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Counts:
    """The different n-grams of one length in a text, in the order of their keys (see
    ``llmos.models.ngram.Grams``).

    Attributes:
        contexts: of each, its key's context; 0 for single tokens.
        counts: how often each is there.
        continuations: how many different tokens stand before each; the first n-gram of a text may
            have none.
    """

    keys: IntArray
    contexts: IntArray
    counts: IntArray
    continuations: IntArray


def count(
    text: npt.NDArray[np.integer[Any]], order: int, vocab_size: int, between: Callable[[], None]
) -> list[Counts]:
    """Count the n-grams of 1, 2, … ``order`` tokens of a text; single tokens are all those of the
    vocabulary, seen or not.

    Args:
        between: called between lengths; it may raise, which ends the counting.
    """
    tokens: IntArray = text.astype(np.int64)
    places = tokens
    keys: IntArray = np.arange(vocab_size, dtype=np.int64)
    contexts: IntArray = np.zeros(vocab_size, dtype=np.int64)
    counts: IntArray = np.bincount(places, minlength=vocab_size)
    found: list[Counts] = []
    for length in range(1, order):
        between()
        # Of one more token: the place of what begins at each, and the token that comes after it.
        longer = places[:-1] * vocab_size + tokens[length:]
        longer_keys, firsts, longer_places, longer_counts = np.unique(
            longer, return_index=True, return_inverse=True, return_counts=True
        )
        continuations = np.bincount(places[1:][firsts], minlength=len(keys))
        found.append(Counts(keys, contexts, counts, continuations))
        keys, counts, places = longer_keys, longer_counts, longer_places
        contexts = keys // vocab_size
    found.append(Counts(keys, contexts, counts, np.zeros(0, dtype=np.int64)))
    return found


def discounts(counts: IntArray) -> tuple[float, float, float]:
    """Return what is taken from counts of 1, 2 and more (Chen and Goodman, equation 26).

    They follow from how many counts are 1, 2, 3 and 4. Where there are none of one of these, or
    what follows is less than nothing or more than is there, they are FALLBACK_DISCOUNTS.
    """
    ones, twos, threes, fours = (int((counts == n).sum()) for n in (1, 2, 3, 4))
    if not (ones and twos and threes and fours):
        return FALLBACK_DISCOUNTS
    y = ones / (ones + 2 * twos)
    found = (1 - 2 * y * twos / ones, 2 - 3 * y * threes / twos, 3 - 4 * y * fours / threes)
    is_sound = all(0 < d <= n for n, d in enumerate(found, 1))
    return found if is_sound else FALLBACK_DISCOUNTS


def model_of(counted: list[Counts], config: NgramConfig) -> NgramForCausalLM:
    """Return the model of n-grams no longer than ``config.order``."""
    order = config.order
    tables: dict[str, FloatArray | IntArray] = {}
    for length, grams in enumerate(counted[:order], 1):
        seen = grams.counts if length == order else grams.continuations
        taken = np.array([0.0, *discounts(seen)])[np.minimum(seen, 3)]
        num_contexts = 1 if length == 1 else len(counted[length - 2].keys)
        totals = np.bincount(grams.contexts, seen, num_contexts)
        backoffs = np.ones(num_contexts)
        np.divide(
            np.bincount(grams.contexts, taken, num_contexts), totals, backoffs, where=totals > 0
        )
        totals = np.maximum(totals, 1)
        probabilities = (seen - taken) / totals[grams.contexts]
        prefix = f"grams.{length - 2}."
        if length == 1:
            tables["unigrams.weight"] = (probabilities + backoffs[0] / len(seen))[:, None]
            continue
        tables[f"{prefix}keys"] = grams.keys
        tables[f"{prefix}probabilities"] = probabilities
        tables["backoffs" if length == 2 else f"grams.{length - 3}.backoffs"] = backoffs
    config.entries = [len(grams.keys) for grams in counted[1:order]]
    model = NgramForCausalLM(config)
    state = {name: torch.from_numpy(table) for name, table in tables.items()}
    model.load_state_dict(state)  # casts probabilities to float32
    return model


@dataclass(slots=True)
class Counting:
    """Counts in the place of a ``Trainer``: a step is a model of n-grams one token longer.

    Args:
        model: says what is to be counted; ``run`` puts what was counted in its place.
        clock: seconds, for the time taken.
    """

    recipe: Recipe
    model: Any
    objective: Objective
    train: Columns
    validation: Columns
    context: Context
    clock: Callable[[], float] = time.perf_counter
    progress: Progress = field(default_factory=Progress)

    def run(self) -> Progress:
        """Make the models of 1, 2, … tokens; keep the longest, or the best where that is wanted.

        Raises:
            CancelledError: the job was cancelled or preempted; the next attempt begins anew.
        """
        begun = self.clock() - self.context.still_s
        config, device = self.model.config, self.model.device
        tokens = np.asarray(self.train["tokens"].flat)
        self.context.log(f"counting {len(tokens):,} tokens of {config.vocab_size:,} kinds")
        counted = count(tokens, config.order, config.vocab_size, self._give_way)
        for length in range(1, config.order + 1):
            self._give_way()
            own = NgramConfig.from_dict(config.to_dict() | {"order": length, "entries": []})
            model = model_of(counted, own).to(device).eval()
            self._report(model, len(counted[length - 1].keys))
            if self.recipe.publish == "last" or self.progress.best_step == length:
                self.model = model
        self.progress.seconds = self.clock() - self.context.still_s - begun
        return self.progress

    def _report(self, model: NgramForCausalLM, num_entries: int) -> None:
        """Note how well a model does on some of the text it was counted on, and of the other."""
        progress, order = self.progress, self.recipe.steps
        progress.step = model.config.order
        point = {
            "step": float(progress.step),
            "loss": self._loss(model, self.train),
            "validation_loss": self._loss(model, self.validation),
        }
        progress.curve.append(point)
        if point["validation_loss"] < progress.best_loss:
            progress.best_loss, progress.best_step = point["validation_loss"], progress.step
        self.context.metric(progress.step, **{k: v for k, v in point.items() if k != "step"})
        said = f"{num_entries:,} {progress.step}-grams · validation {point['validation_loss']:.3f}"
        self.context.progress(progress.step, order, said)

    def _loss(self, model: NgramForCausalLM, columns: Columns) -> float:
        recipe = self.recipe
        batches = evaluation_batches(
            self.objective, columns, recipe.batch_size, recipe.eval_batches
        )
        return mean_loss(model, self.objective, columns, batches)

    def _give_way(self) -> None:
        self.context.wait_while_paused()
        self.context.raise_if_cancelled()
        if self.context.is_leaving:
            raise CancelledError
