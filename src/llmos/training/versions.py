"""What a training ends with: a version, saved, compared with serving, tested and described; and one
of each step that the recipe wants kept."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from llmos.library.adapters import AdapterManifest
from llmos.library.lessons import STREAM
from llmos.library.manifest import Manifest, build_manifest
from llmos.models.multitask import asked_for
from llmos.training import checkpoint, curve, distillation, parity, publish
from llmos.training.adapters import adapter_manifest, load_adapted, merged, save_adapter
from llmos.training.assessment import assess
from llmos.training.base_model import BaseModel, Given
from llmos.training.checkpoint import Progress
from llmos.training.counting import Counting
from llmos.training.examples import Data
from llmos.training.preparation import Prepared, specials_for
from llmos.training.privacy import published
from llmos.training.recipe import Recipe
from llmos.training.recipe_parts import parts_of
from llmos.training.recipe_sections import DATASET
from llmos.training.replay import Memory
from llmos.training.trainer import Trainer
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

TOLD = ("loss", "validation_loss", "validation_token_accuracy")
"""Of the curve, what the result tells of each version."""
FULL = {
    "validation_loss": "full_validation_loss",
    "token_accuracy": "full_validation_token_accuracy",
}
"""Of the metrics, and how it tells them: they are of all that was held back."""


def publish_version(
    context: JobContext,
    trainer: Trainer | Counting,
    prepared: Prepared,
    given: Given,
    data: Data,
    progress: Progress,
    memory: Memory | None,
) -> JobResult:
    """Save, check, test and describe the model, and those of the steps to keep; nothing is
    committed before all of it is done."""
    recipe, model = trainer.recipe, trainer.model
    is_best = recipe.publish == "best"
    if is_best and progress.best_weights is not None:
        checkpoint.set_weights(model, progress.best_weights)
    distillation.forget_maps(model)
    publisher = _Publisher(context, trainer, prepared, given, data, progress, memory)
    last_step = progress.best_step if is_best else progress.step
    last = publisher.published("model", progress.step, last_step)
    made = [*publisher.kept(context.checkpoint_dir / "checkpoints"), last]
    manifest = last.version.manifest
    summary = {
        "parameters": manifest["parameters"],
        "seconds": manifest["source"]["seconds"],
        "tokens": progress.tokens,
        "metrics": manifest["metrics"],
        "checkpoints": [one.told for one in made],
    }
    return JobResult(summary=summary, artifacts=tuple(one.version for one in made))


@dataclass(frozen=True, slots=True)
class _Made:
    """A version, and ``{"step", "loss", …}`` of it."""

    version: NewVersion
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Publisher:
    """Makes versions of what a training's model holds."""

    context: JobContext
    trainer: Trainer | Counting
    prepared: Prepared
    given: Given
    data: Data
    progress: Progress
    memory: Memory | None

    def kept(self, checkpoints: Path) -> list[_Made]:
        """Return the versions of the steps that the recipe wants kept; the model is left with the
        weights of the last of these."""
        made = []
        for step in self.trainer.recipe.keep_at:
            if step >= self.progress.step:  # it ended before that
                break
            weights = checkpoint.kept_weights(checkpoints, step)
            if weights is None:
                self.context.log(f"the checkpoint of step {step} is damaged: no version is made")
                continue
            checkpoint.set_weights(self.trainer.model, weights)
            made.append(self.published(f"model-{step}", step, step))
        return made

    def published(self, folder: str, steps: int, step: int) -> _Made:
        """Save what the model holds under the job's ``folder``, and see that it is what is served.

        Args:
            steps: that were taken.
            step: of these, the one that the weights are of.
        """
        context, trainer, recipe = self.context, self.trainer, self.trainer.recipe
        directory = context.checkpoint_dir / folder
        shutil.rmtree(directory, ignore_errors=True)
        self._tell(f"comparing the model of step {step} with what will be served")
        report = self._saved(directory)
        self._tell(f"testing the model of step {step}")
        metrics = self._assessed()
        points = [point for point in self.progress.curve if point["step"] <= steps]
        if isinstance(trainer, Trainer) and trainer.privacy is not None:
            metrics["privacy"] = trainer.privacy.report(steps)
            points = published(points)
        loss, measure = metrics["validation_loss"], curve.measure_of(recipe)
        curve.write(directory, context.params["name"], points, loss, measure)
        about = {
            **described(recipe),
            "metrics": metrics,
            "parity": report,
            "source": self._source(steps, step),
        }
        version = NewVersion(
            kind="model" if recipe.adapter is None else "adapter",
            name=context.params["name"],
            files={path.name: context.blobs.put_file(path) for path in sorted(directory.iterdir())},
            manifest=self._manifest(directory, about).to_dict(),
            inputs=inputs_of(context, recipe, self.given),
        )
        return _Made(version, _told(points, step, metrics))

    def _tell(self, message: str) -> None:
        self.context.progress(self.progress.step, self.trainer.recipe.steps, message)

    def _saved(self, directory: Path) -> dict[str, Any]:
        """Write the files; return what was compared with serving."""
        recipe, model, given = self.trainer.recipe, self.trainer.model, self.given
        if recipe.adapter is not None and given.base is not None:
            return _save_adapter(recipe, model, self.prepared, given.base, self.data, directory)
        return _save_model(recipe, model, self.prepared, given.tokens, self.data, directory)

    def _assessed(self) -> dict[str, Any]:
        recipe, model, objective = self.trainer.recipe, self.trainer.model, self.trainer.objective
        specials = specials_for(recipe, self.given.tokens)
        metrics = assess(recipe, model, objective, self.prepared, specials, self.data)
        if self.memory is not None:
            rows = self.prepared.validation
            metrics["forgetting"] = self.memory.report(model, objective, rows)
        return metrics

    def _source(self, steps: int, step: int) -> dict[str, Any]:
        recipe, given, progress = self.trainer.recipe, self.given, self.progress
        source: dict[str, Any] = {
            "kind": "trained",
            "data": recipe.data.path,
            "base": given.base.ref if given.base else None,
        }
        if given.teacher is not None:
            source["teacher"] = given.teacher.ref
        if given.vectors is not None:
            found = round(given.vectors.share_of(self.prepared.tokenizer), 4)
            source |= {"vectors": given.vectors.name, "vectors_found": found}
        source |= {"steps": steps, "published_step": step, "seed": recipe.seed}
        source["threads"] = torch.get_num_threads()
        if steps == progress.step:
            source["seconds"] = round(progress.seconds, 3)
        return source | _learned(self.context, recipe)

    def _manifest(self, directory: Path, about: dict[str, Any]) -> Manifest | AdapterManifest:
        recipe, base = self.trainer.recipe, self.given.base
        if recipe.adapter is not None and base is not None:
            about["chat_template"] = recipe.chat_template
            return adapter_manifest(directory, base, about)
        source = about.pop("source")
        return build_manifest(directory, source=source, extra=about)


def _told(points: list[dict[str, float]], step: int, metrics: dict[str, Any]) -> dict[str, Any]:
    """Return what was measured up to a step, and of all that was held back."""
    told: dict[str, Any] = {"step": step}
    for point in points:
        if point["step"] <= step:
            told |= {name: point[name] for name in TOLD if name in point}
    return told | {
        name: metrics[measured] for measured, name in FULL.items() if measured in metrics
    }


def _save_model(
    recipe: Recipe,
    model: PreTrainedModel,
    prepared: Prepared,
    tokens: BaseModel | None,
    data: Data,
    directory: Path,
) -> dict[str, Any]:
    """Write a model's files; see that anyone who loads them has what was trained, and return what
    was compared with serving.

    Args:
        tokens: the model whose tokenizer it has.
    """
    specials = specials_for(recipe, tokens)
    tokens_directory = tokens.directory if tokens else None
    publish.save(recipe, model, prepared.tokenizer, specials, directory, tokens_directory)
    whole = build_manifest(directory, extra=described(recipe))
    fresh = publish.load(recipe, directory)
    reports: dict[str, Any] = {}
    for part, own in zip(parts_of(recipe), data.parts, strict=True):
        asked, manifest = asked_for(part.task, model), whole.made_for({part.task})
        assert manifest is not None, "it was trained for the task"
        prompts = publish.prompts(part, prepared.part(part.task).validation)
        publish.check(part, asked, asked_for(part.task, fresh), prompts)
        if tokens is None:
            publish.check_tokenizer(prepared.tokenizer, directory, prompts)
        reports[part.task] = parity.check(
            parity.Trained(
                recipe=part,
                model=asked,
                tokenizer=prepared.tokenizer,
                specials=specials,
                directory=directory,
                manifest=manifest,
                samples=publish.samples(own),
                rows=prompts,
            )
        )
    return reports if recipe.also is not None else reports[recipe.task]


def _save_adapter(
    recipe: Recipe,
    model: PreTrainedModel,
    prepared: Prepared,
    base: BaseModel,
    data: Data,
    directory: Path,
) -> dict[str, Any]:
    """Write an adapter's files; see that the base with it, and merged with it, does the same, and
    return what was compared with serving."""
    save_adapter(recipe, model, base, directory)
    prompts = publish.prompts(recipe, prepared.validation)
    fresh = load_adapted(publish.load(recipe, base.directory), directory)
    publish.check(recipe, model, fresh, prompts)
    difference = publish.check_merged(model, merged(fresh), prompts)
    del fresh
    own = {"task": recipe.task, "chat_template": recipe.chat_template}
    report = parity.check(
        parity.Trained(
            recipe=recipe,
            model=model,
            tokenizer=prepared.tokenizer,
            specials=base.specials,
            directory=base.directory,
            adapter=directory,
            manifest=build_manifest(base.directory, extra=own),
            samples=publish.samples(data),
            rows=prompts,
        )
    )
    return report | {"merged_difference": difference}


def _learned(context: JobContext, recipe: Recipe) -> dict[str, Any]:
    """Return what old data was replayed, and what a micro-update took of its stream."""
    told = {"replay": recipe.replay.path} if recipe.replay is not None else {}
    return told | {key: context.params[key] for key in (STREAM,) if key in context.params}


def described(recipe: Recipe) -> dict[str, Any]:
    """Return what the recipe says about the model, by manifest key."""
    card = recipe.card
    told: dict[str, Any] = {
        "task": recipe.task,
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True),
        "description": card.description,
        "limits": card.limits,
        "license": card.license,
        "languages": card.languages,
        "recommended": card.recommended,
        "generation": recipe.generation.model_dump(exclude_none=True),
    }
    if recipe.translation is not None:
        told["translation"] = recipe.translation.model_dump()
    return told


def inputs_of(context: JobContext, recipe: Recipe, given: Given) -> tuple[str, ...]:
    """Return what the version is made of: files by digest, datasets and models by ref."""
    digests: dict[str, str] = context.params["data"]
    datasets = context.params.get("datasets") or {}
    known = digests | {path: f"{DATASET}{one['ref']}" for path, one in datasets.items()}
    sections = [*(part.data for part in parts_of(recipe)), *filter(None, [recipe.replay])]
    named = [path for section in sections for path in section.named]
    if recipe.model.vectors_file is not None:
        named.append(recipe.model.vectors_file)
    return (*(known.get(path, path) for path in named), *given.refs)
