"""How good the finished model is: loss over all of validation, and its task's metrics by split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from llmos.data.encoding import Columns
from llmos.data.record import Alike, Annotated, Labelled, Pair, Question, Rated, Record
from llmos.data.tokenizers import Specials
from llmos.data.trees import Parsed
from llmos.evaluation import evaluate, evaluate_readers, evaluate_trees, metrics
from llmos.models.multitask import asked_for
from llmos.training.encoder import Encoder, source_text
from llmos.training.examples import Data
from llmos.training.latents import Latents, fidelity
from llmos.training.mixture import Mixture
from llmos.training.objectives import Objective, Surveyed
from llmos.training.preferences import Preferences, accuracy
from llmos.training.preparation import Prepared
from llmos.training.recipe import BY_TEXT, Recipe
from llmos.training.recipe_parts import parts_of
from llmos.training.recipe_sections import ContrastiveSection
from llmos.training.validation import evaluation_batches, means

BATCH_ROWS = 64
TESTED_BATCHES = 4
"""Of texts that are put through their codes."""


def assess(
    recipe: Recipe,
    model: PreTrainedModel,
    objective: Objective,
    prepared: Prepared,
    specials: Specials,
    data: Data,
) -> dict[str, Any]:
    """`validation_loss`, and one dict of metrics per split in `evaluate`.

    Of several tasks the loss is the joint one, and each task has dicts of its own, `task/split`, of
    which `task/validation` is one.
    """
    if not isinstance(objective, Mixture):
        return Assessor(recipe, model, objective, prepared, specials, data).assess()
    losses: list[float] = []
    found: dict[str, Any] = {}
    for part, own in zip(parts_of(recipe), data.parts, strict=True):
        task, learned = part.task, objective.objectives[part.task]
        asked, read = asked_for(task, model), prepared.part(task)
        results = Assessor(part, asked, learned, read, specials, own).assess()
        losses.append(results["validation_loss"])
        splits = {name: value for name, value in results.items() if isinstance(value, dict)}
        measured = {name: value for name, value in results.items() if name not in splits}
        measured["loss"] = measured.pop("validation_loss")
        splits["validation"] = measured | splits.get("validation", {})
        found |= {f"{task}/{split}": values for split, values in splits.items()}
    return {"validation_loss": objective.joint(losses), **found}


@dataclass(frozen=True, slots=True)
class Assessor:
    """Tests a model on the recipe's data."""

    recipe: Recipe
    model: PreTrainedModel
    objective: Objective
    prepared: Prepared
    specials: Specials
    data: Data

    def assess(self) -> dict[str, Any]:
        """`validation_loss`, and one dict of metrics per split in `evaluate`."""
        results = self._measured(self.prepared.validation, "validation_loss")
        if isinstance(self.objective, Preferences):
            columns = self.prepared.validation
            batches = evaluation_batches(self.objective, columns, self._batch_rows)
            results["accuracy"] = accuracy(self.model, self.objective, columns, batches)
        for split in self.recipe.evaluate.splits:
            results[split] = self._split(self.data.split(split, self.recipe.evaluate.rows))
        return results

    def _split(self, records: list[Record]) -> dict[str, Any]:
        recipe, model, labels = self.recipe, self.model, self.prepared.labels or []
        encoder = Encoder(recipe, self.prepared.tokenizer, self.specials, self.prepared.labels)
        match recipe.task:
            case "translate":
                pairs = [record for record in records if isinstance(record, Pair)]
                sources = [source_text(recipe, pair) for pair in pairs]
                return evaluate.translation(
                    model, encoder.tokenizer, pairs, sources, recipe.max_tokens
                )
            case "classify":
                texts = [record for record in records if isinstance(record, Labelled)]
                return evaluate.classification(model, encoder.tokenizer, texts, labels)
            case "entities":
                annotated = [record for record in records if isinstance(record, Annotated)]
                return evaluate.entities(model, encoder.tokenizer, annotated, labels)
            case "answer":
                asked = [record for record in records if isinstance(record, Question)]
                return evaluate_readers.answers(model, encoder.tokenizer, asked, recipe.max_tokens)
            case "embed":
                pairs_alike = [record for record in records if isinstance(record, Alike)]
                section = recipe.contrastive or ContrastiveSection()
                return evaluate_readers.likeness(
                    model, encoder.tokenizer, pairs_alike, section.pooling
                )
            case "parse":
                parsed = [record for record in records if isinstance(record, Parsed)]
                return evaluate_trees.trees(model, encoder.tokenizer, parsed, labels)
            case "rate":
                rated = [record for record in records if isinstance(record, Rated)]
                return evaluate_readers.ratings(model, encoder.tokenizer, rated)
            case _:
                columns = encoder.encode("evaluation", records, _silent)
                return self._measured(columns, "loss") | {"rows": len(records)}

    def _described(self, loss: float, name: str) -> dict[str, Any]:
        """A loss, and the perplexity where it is one of tokens."""
        if self.recipe.objective not in ("causal_lm", "seq2seq", "masked_lm", "span_lm", *BY_TEXT):
            return {name: loss}
        return {name: loss, "perplexity": metrics.perplexity(loss)}

    @property
    def _batch_rows(self) -> int:
        """Pairs are as many sequences with all their logits as training was reckoned to hold."""
        is_paired = isinstance(self.objective, Preferences)
        return self.recipe.batch_size if is_paired else BATCH_ROWS

    def _measured(self, columns: Columns, name: str) -> dict[str, Any]:
        """The loss, and what else the objective measures."""
        batches = evaluation_batches(self.objective, columns, self._batch_rows)
        measured = means(self.model, self.objective, columns, batches)
        results = self._described(measured.pop("loss"), name) | measured
        if isinstance(self.objective, Surveyed):
            results |= self.objective.survey(self.model, columns)
        if isinstance(self.objective, Latents):
            batches = evaluation_batches(self.objective, columns, self._batch_rows, TESTED_BATCHES)
            results |= fidelity(self.model, columns, self.prepared.tokenizer, batches)
        return results


def _silent(line: str) -> None:
    """What evaluation leaves out for its length, training has already told of its own rows."""
