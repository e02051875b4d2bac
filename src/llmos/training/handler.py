"""The train job: data in, a checked model version out. Runs inside a job worker."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from llmos.data.encoding import Columns
from llmos.data.tokenizers import Specials
from llmos.engines.base import find_device
from llmos.library.adapters import AdapterManifest
from llmos.library.manifest import Manifest, build_manifest
from llmos.storage.files import disk_errors
from llmos.training import checkpoint, curve, distillation, networks, parity, publish, ranks
from llmos.training.adapters import adapter_manifest, load_adapted, merged, save_adapter
from llmos.training.adversarial import adversarial_of, drop_critic
from llmos.training.assessment import Assessor
from llmos.training.base_model import BaseModel, Given
from llmos.training.checkpoint import Progress
from llmos.training.counted import is_counted
from llmos.training.counting import Counting
from llmos.training.distribution import Team, gathered
from llmos.training.examples import Data
from llmos.training.latents import latents_of
from llmos.training.micro_batches import micro_batches_for
from llmos.training.objectives import Conversations, Objective, objective_for
from llmos.training.packing import PackedConversations, packed_objective
from llmos.training.preferences import Preferences, with_reference
from llmos.training.preparation import Prepared, prepare, specials_for
from llmos.training.privacy import private, published
from llmos.training.reading import READERS, reading_objective
from llmos.training.recipe import LATENT, Recipe, parse
from llmos.training.recipe_sections import AdversarialSection, DpoSection, LatentSection
from llmos.training.trainer import Trainer
from llmos.training.vectors import job as vectors
from llmos.training.watching import watch
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext


def run(context: JobContext) -> JobResult:
    """Train the recipe in ``context.params`` and return the model as a new version.

    Raises:
        RecipeError, DataError, CorruptBlobError: the recipe or its data cannot be used.
        DivergedError: the loss is no longer a number.
        PublishingError: the saved model differs from the trained one.
        CancelledError: the job was cancelled.
        DiskFullError: there is no room for a checkpoint or the model.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(context.home / "cache" / "matplotlib"))
    with disk_errors():
        return _run(context)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ready:
    """All that training begins with."""

    recipe: Recipe
    given: Given
    data: Data
    prepared: Prepared
    model: PreTrainedModel


def _opened(context: JobContext) -> tuple[Given, Recipe, Data]:
    given = Given.of(context)
    recipe = parse(context.params["recipe"])
    recipe = given.tokens.with_template(recipe) if given.tokens else recipe
    settle(recipe.seed, context.threads)
    context.progress(0, recipe.steps, "reading the data")
    data = Data(recipe, *(_data_file(context, path) for path in recipe.data_paths))
    return given, recipe, data


def _ready(context: JobContext, given: Given, recipe: Recipe, data: Data) -> _Ready:
    prepared = prepare(recipe, data, given.tokens, context.checkpoint_dir / "prepared", context.log)
    model = _model(recipe, prepared, given)
    if recipe.objective == "dpo":
        context.progress(0, recipe.steps, "asking the model that it begins with")
        prepared = _with_reference(prepared, model, recipe.batch_size, context)
    return _Ready(recipe, given, data, prepared, model)


def _run(context: JobContext) -> JobResult:
    given, recipe, data = _opened(context)
    if recipe.task == "word_vectors":
        made_of = _inputs(context, recipe, given)
        return vectors.run(context, recipe, data, _described(recipe), made_of)
    ready = _ready(context, given, recipe, data)
    with ranks.together(context, ready.recipe) as team:
        trainer, progress = _trained(context, ready, team)
    return _publish(context, trainer, ready.prepared, ready.given, ready.data, progress)


def train(context: JobContext, team: Team) -> None:
    """Train as one process of several, of which another publishes."""
    _trained(context, _ready(context, *_opened(context)), team)


def _trained(context: JobContext, ready: _Ready, team: Team) -> tuple[Trainer | Counting, Progress]:
    """Train; the first process of the team is left with all of the model."""
    trainer = _trainer(context, ready, team)
    progress = trainer.run()
    if team.size > 1 and team.parallel != "ddp":
        weights = gathered(checkpoint.weights_of(trainer.model))
        progress.best_weights = gathered(progress.best_weights or {}) or None
        trainer.model = _model(ready.recipe, ready.prepared, ready.given)
        checkpoint.set_weights(trainer.model, weights)
    drop_critic(trainer.model)
    return trainer, progress


def _trainer(context: JobContext, ready: _Ready, team: Team) -> Trainer | Counting:
    recipe, prepared, model, given = ready.recipe, ready.prepared, ready.model, ready.given
    specials = given.tokens.specials if given.tokens else specials_for(recipe)
    objective = _objective(recipe, model, prepared, specials)
    if recipe.distill is not None and given.teacher is not None:
        objective = _distilled(recipe, prepared, model, objective, given.teacher)
    if is_counted(recipe.model.architecture):
        return Counting(recipe, model, objective, prepared.train, prepared.validation, context)
    if team.size > 1 and isinstance(objective, Conversations | PackedConversations):
        objective = dataclasses.replace(objective, plain_head=False)
    cuts = team.size == 1 and recipe.privacy is None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    context.log(f"{parameters:,} parameters, {prepared.tokenizer.get_vocab_size():,} tokens")
    return Trainer(
        recipe,
        model,
        objective,
        prepared.train,
        prepared.validation,
        context.checkpoint_dir / "checkpoints",
        context,
        team=team,
        micro_batches=micro_batches_for(context, recipe, model.device) if cuts else None,
        watch=(
            watch(model, context.checkpoint_dir, context.log, recipe.precision)
            if team.is_first
            else None
        ),
        privacy=private(recipe, model, objective, prepared.train, context.checkpoint_dir),
    )


def _objective(
    recipe: Recipe, model: PreTrainedModel, prepared: Prepared, specials: Specials
) -> Objective:
    if recipe.packing:
        return packed_objective(recipe, model, prepared.train)
    if recipe.objective == "dpo":
        return Preferences((recipe.dpo or DpoSection()).beta)
    if recipe.objective in LATENT:
        section, is_variational = recipe.latent or LatentSection(), recipe.objective == "elbo"
        return latents_of(model, section, is_variational, recipe.seed, recipe.steps)
    if recipe.task in READERS:
        return reading_objective(recipe, model, prepared.tokenizer, specials)
    if recipe.objective == "adversarial":
        adversarial = recipe.adversarial or AdversarialSection()
        return adversarial_of(model, adversarial, recipe.max_tokens, recipe.seed, recipe.steps)
    return objective_for(recipe.task, recipe.block_size, model)


def _distilled(
    recipe: Recipe,
    prepared: Prepared,
    model: PreTrainedModel,
    objective: Objective,
    teacher: BaseModel,
) -> Objective:
    assert recipe.distill is not None
    distillation.check_tokens(prepared.tokenizer, teacher.tokenizer, teacher.ref)
    taught = networks.load_teacher(recipe, teacher.directory).to(model.device)
    return distillation.distilled(objective, model, taught, recipe.distill, recipe.max_length)


def _with_reference(
    prepared: Prepared, model: PreTrainedModel, batch_size: int, context: JobContext
) -> Prepared:
    def give_way() -> None:
        context.wait_while_paused()
        context.raise_if_cancelled()

    def added(columns: Columns, split: str) -> Columns:
        directory = context.checkpoint_dir / "reference" / split
        return with_reference(columns, model, directory, batch_size, give_way)

    return dataclasses.replace(
        prepared,
        train=added(prepared.train, "train"),
        validation=added(prepared.validation, "validation"),
    )


def settle(seed: int, threads: int) -> None:
    """Fix what the numbers depend on: threads, kernels, and the first state of every generator."""
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    if threads:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _data_file(context: JobContext, path: str) -> Path:
    digest: str = context.params["data"][path]
    context.blobs.verify(digest)
    return context.blobs.path(digest)


def _model(recipe: Recipe, prepared: Prepared, given: Given) -> PreTrainedModel:
    if given.base is not None:
        model = networks.load_base(recipe, given.base.directory, prepared.labels)
    else:
        specials = given.tokens.specials if given.tokens else specials_for(recipe)
        model = networks.build(recipe, prepared.tokenizer, specials, prepared.labels)
    return model.to(torch.device(find_device(os.environ.get("LLMOS_DEVICE", "cpu"))))


def _publish(
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
    assessor = Assessor(recipe, model, trainer.objective, prepared, specials, data)
    metrics = assessor.assess()
    points = progress.curve
    if isinstance(trainer, Trainer) and trainer.privacy is not None:
        metrics["privacy"] = trainer.privacy.report(progress.step)
        points = published(points)
    name = context.params["name"]
    curve.write(directory, name, points, metrics["validation_loss"])
    source = _source(recipe, given, progress)
    told = _described(recipe) | {"metrics": metrics, "parity": report}
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
        inputs=_inputs(context, recipe, given),
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
    prompts = publish.prompts(recipe, prepared.validation)
    publish.check(recipe, model, publish.load(recipe, directory), prompts)
    if tokens is None:
        publish.check_tokenizer(prepared.tokenizer, directory, prompts)
    return parity.check(
        parity.Trained(
            recipe=recipe,
            model=model,
            tokenizer=prepared.tokenizer,
            specials=specials,
            directory=directory,
            manifest=build_manifest(directory, extra=_described(recipe)),
            samples=publish.samples(data),
            rows=prompts,
        )
    )


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


def _source(recipe: Recipe, given: Given, progress: Progress) -> dict[str, Any]:
    best = recipe.publish == "best"
    taught = {"teacher": given.teacher.ref} if given.teacher else {}
    return {
        "kind": "trained",
        "data": recipe.data.path,
        "base": given.base.ref if given.base else None,
        **taught,
        "steps": progress.step,
        "published_step": progress.best_step if best else progress.step,
        "seed": recipe.seed,
        "threads": torch.get_num_threads(),
        "seconds": round(progress.seconds, 3),
    }


def _described(recipe: Recipe) -> dict[str, Any]:
    """What the recipe says about the model, by manifest key."""
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


def _inputs(context: JobContext, recipe: Recipe, given: Given) -> tuple[str, ...]:
    digests: dict[str, str] = context.params["data"]
    data = [digests[path] for path in recipe.data_paths] or [recipe.data.path]
    return (*data, *given.refs)
