"""What a training ends with: a version, saved, compared with serving, tested and described."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from llmos.library.adapters import AdapterManifest
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
from llmos.training.trainer import Trainer
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def publish_version(
    context: JobContext,
    trainer: Trainer | Counting,
    prepared: Prepared,
    given: Given,
    data: Data,
    progress: Progress,
) -> JobResult:
    """Save, check, test and describe the model; nothing is committed before all of it is done."""
    recipe, model, base = trainer.recipe, trainer.model, given.base
    if recipe.publish == "best" and progress.best_weights is not None:
        checkpoint.set_weights(model, progress.best_weights)
    distillation.forget_maps(model)
    specials = given.tokens.specials if given.tokens else specials_for(recipe)
    directory = context.checkpoint_dir / "model"
    shutil.rmtree(directory, ignore_errors=True)
    context.progress(progress.step, recipe.steps, "comparing the model with what will be served")
    if recipe.adapter is not None and base is not None:
        report = _save_adapter(recipe, model, prepared, base, data, directory)
    else:
        report = _save_model(recipe, model, prepared, given.tokens, data, directory)
    context.progress(progress.step, recipe.steps, "testing the model")
    metrics = assess(recipe, model, trainer.objective, prepared, specials, data)
    points = progress.curve
    if isinstance(trainer, Trainer) and trainer.privacy is not None:
        metrics["privacy"] = trainer.privacy.report(progress.step)
        points = published(points)
    name = context.params["name"]
    curve.write(directory, name, points, metrics["validation_loss"])
    source = _source(recipe, prepared, given, progress)
    told = described(recipe) | {"metrics": metrics, "parity": report}
    manifest: Manifest | AdapterManifest
    if recipe.adapter is not None and base is not None:
        told |= {"source": source, "chat_template": recipe.chat_template}
        manifest = adapter_manifest(directory, base, told)
    else:
        manifest = build_manifest(directory, source=source, extra=told)
    version = NewVersion(
        kind="model" if recipe.adapter is None else "adapter",
        name=name,
        files={path.name: context.blobs.put_file(path) for path in sorted(directory.iterdir())},
        manifest=manifest.to_dict(),
        inputs=inputs_of(context, recipe, given),
    )
    summary = {
        "parameters": manifest.parameters,
        "seconds": source["seconds"],
        "tokens": progress.tokens,
        "metrics": metrics,
        "checkpoints": [_measured_at(progress, source["published_step"])],
    }
    return JobResult(summary=summary, artifacts=(version,))


def _measured_at(progress: Progress, step: int) -> dict[str, Any]:
    """Return ``{"step", "loss", "validation_loss"}``, as far as they were measured up to a step."""
    told: dict[str, Any] = {}
    for point in progress.curve:
        if point["step"] <= step:
            told |= {name: point[name] for name in ("loss", "validation_loss") if name in point}
    return {**told, "step": step}


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
    specials = tokens.specials if tokens else specials_for(recipe)
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


def _source(recipe: Recipe, prepared: Prepared, given: Given, progress: Progress) -> dict[str, Any]:
    best = recipe.publish == "best"
    more: dict[str, Any] = {"teacher": given.teacher.ref} if given.teacher else {}
    if given.vectors is not None:
        found = round(given.vectors.share_of(prepared.tokenizer), 4)
        more |= {"vectors": given.vectors.name, "vectors_found": found}
    return {
        "kind": "trained",
        "data": recipe.data.path,
        "base": given.base.ref if given.base else None,
        **more,
        "steps": progress.step,
        "published_step": progress.best_step if best else progress.step,
        "seed": recipe.seed,
        "threads": torch.get_num_threads(),
        "seconds": round(progress.seconds, 3),
    }


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
    datasets = (context.params.get("datasets") or {}).values()
    named = [f"{DATASET}{one['ref']}" for one in datasets]
    starters = [p.data.path for p in parts_of(recipe) if not p.data.read_paths]
    data = [*(digests[path] for path in recipe.data_paths), *named, *starters]
    if recipe.model.vectors_file is not None:
        data.append(digests[recipe.model.vectors_file])
    return (*data, *given.refs)
