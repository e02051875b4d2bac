"""Which sections and tasks of a recipe do not go together. Torch-free."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from llmos.library.lessons import READS
from llmos.training.recipe_sections import DATASET, FEEDBACK, STARTER

if TYPE_CHECKING:
    from llmos.training.recipe import Recipe

LABELLED = ("causal_lm", "seq2seq", "sequence_classification", "token_classification")
"""Objectives whose loss is the cross-entropy of labels."""
READING = ("classify", "entities", "fill_mask", "answer", "embed", "rate")
"""Tasks that write no text, so that tokens may be words."""
AUGMENTED = ("classify", "translate")
"""Tasks whose labels or targets hang on no place in the text."""
LABELS_OF = ("classify", "entities")
"""Tasks that know a set of labels."""
LABELLED_TASKS = (*LABELS_OF, "parse")
"""Those, and the one whose labels are of pairs of words."""
DROPOUT = "drop"
"""In the names that networks have for their shares of dropout (`attention_dropout`,
`resid_pdrop`)."""


def check_mixture(recipe: Recipe) -> None:
    """Raise ValueError where one encoder cannot learn all of the tasks."""
    if recipe.also is None:
        return
    others = recipe.also.sections
    able = ", ".join(type(recipe.also).model_fields)
    if not others or recipe.task in others:
        raise ValueError(f"also names other tasks than {recipe.task}, one or more of: {able}")
    if recipe.task not in type(recipe.also).model_fields:
        raise ValueError(f"also is for tasks of an encoder ({able}), not for {recipe.task}")
    if recipe.objective == "span_lm":
        raise ValueError("also is for encoders, and objective span_lm for encoder-decoders")
    for name in ("robust", "adapter", "distill", "privacy"):
        if getattr(recipe, name) is not None:
            raise ValueError(f"also takes no {name} section")
    if recipe.label_smoothing:
        raise ValueError("also takes no label_smoothing: not all tasks have labels")
    if recipe.processes != 1:
        raise ValueError("several tasks are learned in one process: processes: 1")
    if recipe.micro_batch_size is not None and "embed" in (recipe.task, *others):
        raise ValueError("task embed needs whole batches: no micro_batch_size")
    for task, section in others.items():
        if section.labels is not None and task not in LABELS_OF:
            raise ValueError(f"also.{task} takes no labels")
        data = section.data
        missing = sorted(set(recipe.evaluate.splits) - {"train", "validation"})
        if missing and data.read_paths:
            raise ValueError(
                f"evaluate.splits names {missing[0]}, but the data of also.{task} has only train "
                "and validation: --set evaluate.splits=[]"
            )
        if data.validation_path is not None and data.path.startswith(STARTER):
            raise ValueError(f"also.{task}.data.validation_path is for a file as data.path")


def check_task(recipe: Recipe) -> None:
    """Raise ValueError where a recipe has what its task has no use for."""
    if recipe.labels is not None and recipe.task not in LABELLED_TASKS:
        raise ValueError(f"labels is for tasks {', '.join(LABELLED_TASKS)}, not for {recipe.task}")
    if recipe.translation is not None and recipe.task != "translate":
        raise ValueError(f"translation is for task translate, not for {recipe.task}")


def check_base(recipe: Recipe) -> None:
    """Raise ValueError where `model.config` would change what a base's weights are made for."""
    others = [key for key in recipe.model.config if DROPOUT not in key]
    if recipe.model.base is not None and others:
        raise ValueError(
            f"model.config.{others[0]} cannot be changed of a model.base, only its dropout can: "
            "leave it out (--set model.config={} where a recipe has some)"
        )


def check_adapter(recipe: Recipe) -> None:
    """Raise ValueError where an adapter cannot be trained over the base."""
    if recipe.adapter is None:
        return
    if recipe.model.base is None or recipe.tokenizer.kind != "base":
        raise ValueError("an adapter is for a model.base, and needs tokenizer.kind base")
    if recipe.head != "causal_lm":
        raise ValueError(f"an adapter is for a task that writes, generate or chat: {recipe.task}")
    if recipe.model.freeze or recipe.model.train_only:
        raise ValueError(
            "an adapter leaves all of its base as it is: "
            "leave model.freeze and model.train_only out"
        )


def check_dpo(recipe: Recipe) -> None:
    """Raise ValueError where there is nothing to learn preferences from, or with."""
    if recipe.objective != "dpo":
        if recipe.dpo is not None:
            raise ValueError("dpo is for objective dpo")
        return
    if recipe.model.base is None:
        raise ValueError("objective dpo goes on from a model.base, which it is measured by")
    if recipe.robust is not None:
        raise ValueError("objective dpo takes no robust section")
    if recipe.starter is not None:
        raise ValueError("objective dpo needs a file of pairs of answers as data.path")
    if recipe.evaluate.splits:
        raise ValueError("objective dpo is tested on validation alone: evaluate.splits=[]")


def check_together(recipe: Recipe) -> None:
    """Raise ValueError where sections of a recipe do not go together."""
    check_task(recipe)
    check_base(recipe)
    check_dataset(recipe)
    check_tokenized(recipe)
    check_mixture(recipe)
    check_distill(recipe)
    check_privacy(recipe)
    check_vectors(recipe)
    check_robust(recipe)
    check_kept(recipe)
    check_learning(recipe)


def check_dataset(recipe: Recipe) -> None:
    """Raise ValueError where the data is a dataset and is told how to be read, as files are."""
    others = [] if recipe.also is None else recipe.also.sections.values()
    for data in (recipe.data, *(one.data for one in others), *filter(None, [recipe.replay])):
        if data.path.startswith(DATASET) and (data.format or data.columns):
            raise ValueError("data.format and data.columns are for files: a dataset has its own")


def check_tokenized(recipe: Recipe) -> None:
    """Raise ValueError where the tokenizer cannot be that of the data."""
    if recipe.tokenizer.kind != "data":
        return
    if recipe.model.base is not None or not recipe.data.path.startswith(DATASET):
        raise ValueError("tokenizer.kind data needs a data.path dataset:NAME, and no model.base")
    if recipe.task != "generate" or recipe.objective != "causal_lm":
        raise ValueError("tokenizer.kind data is for task generate with objective causal_lm")


def check_distill(recipe: Recipe) -> None:
    """Raise ValueError where a student cannot learn from a teacher."""
    distill = recipe.distill
    if recipe.tokenizer.kind == "teacher" and (distill is None or recipe.model.base):
        raise ValueError("tokenizer.kind teacher needs distill, and no model.base")
    if distill is None:
        return
    if recipe.objective not in LABELLED or recipe.robust is not None or recipe.packing:
        raise ValueError(
            f"distill is for objectives {', '.join(LABELLED)}, without robust and packing"
        )
    if distill.hidden is not None and recipe.objective == "seq2seq":
        raise ValueError("distill.hidden is not for seq2seq: learn from the logits alone")


def check_privacy(recipe: Recipe) -> None:
    """Raise ValueError where privacy could not be kept."""
    privacy = recipe.privacy
    if privacy is None:
        return
    if (privacy.epsilon is None) == (privacy.noise_multiplier is None):
        raise ValueError("privacy needs either noise_multiplier or epsilon, not both")
    if recipe.objective not in LABELLED or recipe.robust or recipe.packing or recipe.distill:
        raise ValueError(
            f"privacy is for objectives {', '.join(LABELLED)}, without robust, packing and distill"
        )
    if recipe.model.base is None or recipe.tokenizer.kind != "base":
        raise ValueError(
            "privacy needs a model.base with tokenizer.kind base: "
            "a tokenizer made from the examples would tell of it"
        )
    if recipe.task in LABELS_OF and recipe.labels is None:
        raise ValueError("privacy needs labels: those found in the examples would tell of them")
    if "train" in recipe.evaluate.splits:
        raise ValueError("privacy needs evaluate.splits without train: it would tell of examples")
    if recipe.accumulate != 1 or recipe.micro_batch_size is not None:
        raise ValueError(
            "privacy computes examples one by one, so accumulate=1, "
            "and no micro_batch_size: batch_size is how many a step takes on average"
        )
    if recipe.processes != 1 or recipe.precision != "float32":
        raise ValueError("privacy needs processes: 1 and precision: float32")


def check_vectors(recipe: Recipe) -> None:
    """Raise ValueError where embeddings cannot begin with word vectors."""
    model, kind = recipe.model, recipe.tokenizer.kind
    if model.vectors is None:
        if kind == "vectors":
            raise ValueError("tokenizer.kind vectors needs model.vectors")
        if model.freeze_vectors:
            raise ValueError("model.freeze_vectors needs model.vectors")
        return
    if model.base is not None:
        raise ValueError("model.vectors is for a network that begins anew, without a model.base")
    if recipe.task not in READING or recipe.objective == "span_lm":
        raise ValueError(f"model.vectors is for tasks that read: {', '.join(READING)}")
    if kind not in ("word", "vectors"):
        raise ValueError("model.vectors are of words, and need tokenizer.kind word or vectors")


def check_robust(recipe: Recipe) -> None:
    """Raise ValueError where what is read cannot be changed as a robust section wants."""
    robust = recipe.robust
    if robust is None:
        return
    if recipe.objective == "regression":
        raise ValueError("task rate takes no robust section")
    if recipe.precision != "float32":
        raise ValueError("a robust section needs precision: float32")
    if (robust.drop or robust.shuffle) and recipe.task not in AUGMENTED:
        raise ValueError(
            f"robust.drop and robust.shuffle are for tasks {' and '.join(AUGMENTED)}, whose labels "
            "and targets hang on no place in the text"
        )


def check_kept(recipe: Recipe) -> None:
    """Raise ValueError where the steps to keep are not in order, or there are none such."""
    steps = [0, *recipe.keep_at, recipe.steps]
    if recipe.keep_at and any(one >= other for one, other in pairwise(steps)):
        raise ValueError("keep_at must be steps below `steps`, each above the one before it")


def check_learning(recipe: Recipe) -> None:
    """Raise ValueError where feedback, a replay or a micro-update is not what a recipe can have."""
    if recipe.data.path.startswith(FEEDBACK):
        if recipe.reads not in READS:
            raise ValueError(f"{recipe.data.path}: feedback teaches chat and generate alone")
        if recipe.data.path == FEEDBACK:
            raise ValueError("data.path must name whose feedback: feedback:MODEL")
    replay, online = recipe.replay, recipe.online
    if online is not None and (replay is None or not recipe.data.path.startswith(FEEDBACK)):
        raise ValueError("online needs data.path feedback:MODEL, and replay against forgetting")
    if online is not None and recipe.keep_at:
        raise ValueError("online makes one version, and no keep_at")
    if online is not None and recipe.data.rows is not None:
        raise ValueError("online takes as many rows as its steps see: leave data.rows out")
    if online is not None and online.min_rows > recipe.num_new_rows:
        raise ValueError(
            f"online.min_rows {online.min_rows} are never taken: {recipe.steps} steps see "
            f"{recipe.num_new_rows} new rows"
        )
    if online is not None and recipe.adapter is not None:
        raise ValueError("online updates a model whole: an adapter would begin anew each time")
    if replay is None:
        return
    if recipe.model.base is None or recipe.tokenizer.kind != "base":
        raise ValueError("replay is of what a model.base learned, with tokenizer.kind base")
    if recipe.reads == "texts" or recipe.vectors or recipe.packing or recipe.privacy or recipe.also:
        raise ValueError("replay is for objectives of examples, without packing, privacy and also")
    if recipe.labels is None and recipe.task in LABELLED_TASKS:
        raise ValueError("replay needs labels: old and new examples must mean the same by each")
    if replay.path.startswith(FEEDBACK):
        raise ValueError("replay.path must be a file, a dataset or starter:NAME: feedback is new")
    if replay.validation_path is not None and replay.path.startswith(STARTER):
        raise ValueError("replay.validation_path is for a file as replay.path")
    if replay.path == recipe.data.path:
        raise ValueError("replay.path is the same as data.path: nothing is new")
    if replay.share and not 0 < replay.rows_of(recipe.batch_size) < recipe.batch_size:
        raise ValueError(
            f"replay.share {replay.share:g} leaves a batch of {recipe.batch_size} rows without "
            "old or without new ones: change it, or batch_size"
        )
