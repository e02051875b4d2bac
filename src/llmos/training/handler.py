"""The train job: data in, a checked model version out. Runs inside a job worker."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from llmos.data.encoding import Columns
from llmos.data.tokenizers import Specials
from llmos.engines.base import find_device
from llmos.errors import RecipeError
from llmos.library.lessons import STREAM
from llmos.storage.files import disk_errors
from llmos.training import checkpoint, distillation, networks, ranks
from llmos.training.adversarial import adversarial_of, drop_critic
from llmos.training.augmentation import augmented
from llmos.training.base_model import BaseModel, Given, tokenized_paths
from llmos.training.checkpoint import Progress
from llmos.training.counted import is_counted
from llmos.training.counting import Counting
from llmos.training.distribution import Team, gathered
from llmos.training.examples import Data
from llmos.training.latents import latents_of
from llmos.training.micro_batches import memory_errors, micro_batches_for
from llmos.training.mixture import Mixture
from llmos.training.objectives import Conversations, Objective, objective_for
from llmos.training.packing import PackedConversations, packed_objective
from llmos.training.parsing import ParsedSentences, is_parser
from llmos.training.preferences import Preferences, with_reference
from llmos.training.preparation import Prepared, prepare, specials_for
from llmos.training.privacy import private
from llmos.training.reading import READERS, reading_objective
from llmos.training.recipe import LATENT, Recipe, parse
from llmos.training.recipe_parts import parts_of, weights_of
from llmos.training.recipe_sections import (
    AdversarialSection,
    DpoSection,
    LatentSection,
    RobustSection,
)
from llmos.training.replay import Memory, mixed, old_recipe, shortened
from llmos.training.robust import check_r_drop
from llmos.training.tagging import LabelPaths, is_tagger
from llmos.training.trainer import Trainer
from llmos.training.vectors import job as vectors
from llmos.training.versions import described, inputs_of, publish_version
from llmos.training.watching import watch
from llmos.types import JobResult

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
        OutOfMemoryError: memory ran out, and nothing smaller could be tried.
        HalvedError, RankLostError: one of several processes ended; the job may go on.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(context.home / "cache" / "matplotlib"))
    with disk_errors(), memory_errors(context.params):
        return _run(context)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ready:
    """All that training begins with."""

    recipe: Recipe
    given: Given
    data: Data
    prepared: Prepared
    model: PreTrainedModel
    memory: Memory | None


def _opened(context: JobContext) -> tuple[Given, Recipe, Data]:
    given = Given.of(context)
    recipe = parse(context.params["recipe"])
    recipe = given.tokens.with_template(recipe) if given.tokens else recipe
    settle(recipe.seed, context.threads)
    context.progress(0, recipe.steps, "reading the data")
    return given, recipe, _data(context, recipe)


def _ready(context: JobContext, given: Given, recipe: Recipe, data: Data) -> _Ready:
    if recipe.privacy is not None and recipe.reads == "generate" and not data.is_text:
        raise RecipeError(
            "privacy of a task generate needs running text, of which an example is a block: "
            "records would be cut into any number of them"
        )
    words = given.vectors.words if given.vectors else ()
    directory = context.checkpoint_dir / "prepared"
    prepared = prepare(recipe, data, given.tokens, directory, context.log, words)
    recipe = shortened(recipe, prepared.train)
    old = _old(context, given, recipe)
    model = _model(recipe, prepared, given)
    if given.vectors is not None:
        share = given.vectors.share_of(prepared.tokenizer)
        context.log(f"{share:.1%} of the words begin with their vectors of {given.vectors.name}")
    if recipe.objective == "dpo":
        context.progress(0, recipe.steps, "asking the model that it begins with")
        prepared = _with_reference(prepared, model, recipe.batch_size, context, "reference")
        if old is not None:
            old = _with_reference(old, model, recipe.batch_size, context, "old_reference")
    memory = None
    if old is not None:
        memory = Memory(old, context.checkpoint_dir / "before.json", recipe.batch_size)
    return _Ready(recipe, given, data, prepared, model, memory)


def _old(context: JobContext, given: Given, recipe: Recipe) -> Prepared | None:
    """Return what the base learned before, where the recipe replays it."""
    if recipe.replay is None:
        return None
    old = old_recipe(recipe)
    directory = context.checkpoint_dir / "replayed"
    return prepare(old, _data(context, old), given.tokens, directory, context.log)


def _run(context: JobContext) -> JobResult:
    given, recipe, data = _opened(context)
    if recipe.task == "word_vectors":
        made_of = inputs_of(context, recipe, given)
        return vectors.run(context, recipe, data, described(recipe), made_of)
    ready = _ready(context, given, recipe, data)
    with ranks.together(context, ready.recipe) as team:
        trainer, progress = _trained(context, ready, team)
    return publish_version(
        context, trainer, ready.prepared, ready.given, ready.data, progress, ready.memory
    )


def train(context: JobContext, team: Team) -> None:
    """Train as one process of several, of which another publishes. Raises as `run`."""
    with memory_errors(context.params):
        _trained(context, _ready(context, *_opened(context)), team)


def _trained(context: JobContext, ready: _Ready, team: Team) -> tuple[Trainer | Counting, Progress]:
    """Train; the first process of the team is left with all of the model."""
    trainer = _trainer(context, ready, team)
    if ready.memory is not None and team.is_first:
        context.progress(0, ready.recipe.steps, "measuring what the model knows")
        ready.memory.note(trainer.model, trainer.objective, ready.prepared.validation)
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
    specials = specials_for(recipe, given.tokens)
    objective = _objective(recipe, model, prepared, specials)
    if recipe.distill is not None and given.teacher is not None:
        objective = _distilled(recipe, prepared, model, objective, given.teacher)
    if recipe.robust is not None:
        objective = _made_robust(recipe, recipe.robust, prepared, model, objective)
    if is_counted(recipe.model.architecture):
        return Counting(recipe, model, objective, prepared.train, prepared.validation, context)
    if team.size > 1 and isinstance(objective, Conversations | PackedConversations):
        objective = dataclasses.replace(objective, plain_head=False)
    old = ready.memory.old.train if ready.memory is not None else None
    begin = context.params.get(STREAM, {}).get("after", 0)
    train, sampler = mixed(recipe, objective, prepared.train, old, begin)
    cuts = recipe.privacy is None
    parameters = sum(parameter.numel() for parameter in model.parameters())
    context.log(f"{parameters:,} parameters, {prepared.tokenizer.get_vocab_size():,} tokens")
    return Trainer(
        recipe,
        model,
        objective,
        train,
        prepared.validation,
        context.checkpoint_dir / "checkpoints",
        context,
        team=team,
        micro_batches=micro_batches_for(context, recipe, model.device, team) if cuts else None,
        watch=(
            watch(model, context.checkpoint_dir, context.log, recipe.precision)
            if team.is_first
            else None
        ),
        privacy=private(recipe, model, objective, prepared.train, context.checkpoint_dir),
        sampler=sampler,
    )


def _objective(
    recipe: Recipe, model: PreTrainedModel, prepared: Prepared, specials: Specials
) -> Objective:
    if recipe.also is not None:
        own: dict[str, Objective] = {
            part.task: _objective(part, model, prepared, specials) for part in parts_of(recipe)
        }
        return Mixture(own, weights_of(recipe), recipe.steps, recipe.accumulate)
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
    if is_tagger(model):
        return LabelPaths(model.config.pad_token_id or 0)
    if is_parser(model):
        return ParsedSentences(model.config.pad_token_id or 0)
    return objective_for(recipe.task, recipe.block_size, model)


def _made_robust(
    recipe: Recipe,
    section: RobustSection,
    prepared: Prepared,
    model: PreTrainedModel,
    objective: Objective,
) -> Objective:
    has_dropout_later = recipe.adapter is not None and recipe.adapter.dropout > 0  # it begins at 0
    if section.r_drop and not has_dropout_later:
        some = objective.all_rows(prepared.train)[: recipe.batch_size]
        check_r_drop(model, objective.batch(prepared.train, some).to(model.device))
    if section.drop or section.shuffle:
        return augmented(objective, section, prepared.tokenizer, recipe.seed)
    return objective


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
    prepared: Prepared, model: PreTrainedModel, batch_size: int, context: JobContext, name: str
) -> Prepared:
    def give_way() -> None:
        context.wait_while_paused()
        context.raise_if_cancelled()

    def added(columns: Columns, split: str) -> Columns:
        directory = context.checkpoint_dir / name / split
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


def _data(context: JobContext, recipe: Recipe) -> Data:
    def of(part: Recipe, *also: Data) -> Data:
        sources = [_data_source(context, path) for path in part.data.read_paths]
        return Data(part, *sources, also=also, tokenized=tokenized_paths(context, part))

    own, *others = parts_of(recipe)
    return of(own, *map(of, others))


def _data_source(context: JobContext, path: str) -> Path | tuple[Path, ...]:
    """Return where a data file lies, or the shards of a dataset."""
    known = context.params.get("datasets") or {}
    digests: list[str] = known[path]["shards"] if path in known else [context.params["data"][path]]
    for digest in digests:
        context.blobs.verify(digest)
    found = tuple(context.blobs.path(digest) for digest in digests)
    return found if path in known else found[0]


def _model(recipe: Recipe, prepared: Prepared, given: Given) -> PreTrainedModel:
    labels = prepared.heads or prepared.labels
    if given.base is not None:
        pad = given.base.specials.pad
        pad_id = prepared.tokenizer.token_to_id(pad) if pad else None
        model = networks.load_base(recipe, given.base.directory, labels, pad_id)
    else:
        specials = specials_for(recipe, given.tokens)
        model = networks.build(recipe, prepared.tokenizer, specials, labels)
    if given.vectors is not None:
        freezes = recipe.model.freeze_vectors
        given.vectors.put_into(model, prepared.tokenizer, freezes=freezes)
    return model.to(torch.device(find_device(os.environ.get("LLMOS_DEVICE", "cpu"))))
