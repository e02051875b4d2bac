"""Word vectors as a job: text in, a checked model version out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import AutoModel

from llmos.data import encoding
from llmos.data.encoding import IntArray, Ragged
from llmos.data.tokenizers import UNKNOWN
from llmos.data.word_vectors import FloatMatrix, write_model
from llmos.errors import CancelledError, DataError, RecipeError
from llmos.library.manifest import build_manifest
from llmos.models.registry import register
from llmos.models.word_vectors import WordVectorsConfig
from llmos.sdk.word_vectors import Vectors
from llmos.starter.relations import questions
from llmos.training import checkpoint, curve
from llmos.training.checkpoint import Progress
from llmos.training.examples import Data, texts_of
from llmos.training.preparation import train_tokenizer
from llmos.training.publish import PublishingError
from llmos.training.recipe import Recipe
from llmos.training.recipe_sections import VectorsSection
from llmos.training.trainer import DivergedError
from llmos.training.vectors.glove import Glove
from llmos.training.vectors.learner import Learner
from llmos.training.vectors.word2vec import Word2Vec
from llmos.types import JobResult, NewVersion

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

ANALOGIES = "analogies"
"""What `evaluate.splits` calls the questions about the starter text."""
POINTS = 200
"""Of the loss curve, at most."""


def run(
    context: JobContext,
    recipe: Recipe,
    data: Data,
    described: dict[str, Any],
    inputs: tuple[str, ...],
) -> JobResult:
    """Learn word vectors and return them as a new version.

    Args:
        described: what the recipe says of the model, by manifest key.
        inputs: what it is made of, for its lineage.

    Raises:
        RecipeError, DataError: the recipe or its data cannot be used.
        CancelledError: the job was cancelled, or preempted: then a checkpoint was written.
    """
    tokenizer, train, validation = _prepared(context.checkpoint_dir / "prepared", recipe, data)
    learner = _learner(recipe, tokenizer, train, validation)
    context.log(f"{len(train.flat):,} words, {tokenizer.get_vocab_size():,} in the vocabulary")
    progress = _learn(context, recipe, learner)
    directory = context.checkpoint_dir / "model"
    shutil.rmtree(directory, ignore_errors=True)
    write_model(directory, tokenizer, learner.vectors().contiguous().numpy())
    _check(directory, learner.vectors())
    loss = learner.validation_loss()
    metrics: dict[str, Any] = {"validation_loss": loss, "words": tokenizer.get_vocab_size()}
    if ANALOGIES in recipe.evaluate.splits:
        metrics[ANALOGIES] = _analogies(tokenizer, learner.vectors().numpy())
    measure = curve.measure_of(recipe)
    curve.write(directory, context.params["name"], progress.curve, loss, measure)
    source = {
        "kind": "trained",
        "data": recipe.data.path,
        "base": None,
        "steps": progress.step,
        "seed": recipe.seed,
        "threads": torch.get_num_threads(),
        "seconds": round(progress.seconds, 3),
    }
    told = described | {"task": "embed", "metrics": metrics}
    manifest = build_manifest(directory, source=source, extra=told)
    version = NewVersion(
        kind="model",
        name=context.params["name"],
        files={path.name: context.blobs.put_file(path) for path in sorted(directory.iterdir())},
        manifest=manifest.to_dict(),
        inputs=inputs,
    )
    summary = {"parameters": manifest.parameters, "seconds": source["seconds"], "metrics": metrics}
    return JobResult(summary=summary, artifacts=(version,))


def _prepared(directory: Path, recipe: Recipe, data: Data) -> tuple[Tokenizer, Ragged, Ragged]:
    """Return the words of the text that is learned and of the text held back, by line; an earlier
    attempt's where there was one."""
    if not directory.exists():
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        train, validation = _lines(recipe, data)
        tokenizer = train_tokenizer(recipe, [train])
        if tokenizer.get_vocab_size() < 4:
            raise DataError(
                f"{recipe.data.path} has no two words that are there tokenizer.min_count="
                f"{recipe.tokenizer.min_count} times: use a longer text, or a lower count"
            )
        tokenizer.save(str(partial / "tokenizer.json"))
        for name, lines in (("train", train), ("validation", validation)):
            encoding.save({"words": _encoded(tokenizer, lines)}, partial, name)
        partial.rename(directory)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    splits = [encoding.load(directory, n, ["words"])["words"] for n in ("train", "validation")]
    return tokenizer, splits[0], splits[1]


def _lines(recipe: Recipe, data: Data) -> tuple[list[str], list[str]]:
    if data.is_text:
        lines = [line for line in data.text().splitlines() if line.strip()]
        cut = len(lines) - max(1, int(len(lines) * recipe.data.validation))
        if cut < 1:
            raise DataError(f"{recipe.data.path} has one line: at least two are needed")
        return lines[:cut], lines[cut:]
    train, validation = (
        [line for r in data.split(n) for t in texts_of(r) for line in t.splitlines()]
        for n in ("train", "validation")
    )
    return train, validation


def _encoded(tokenizer: Tokenizer, lines: Iterable[str]) -> Ragged:
    encoded = encoding.encode_texts(tokenizer, lines, add_special_tokens=False)
    return Ragged.of(line.ids for line in encoded)


def _learner(recipe: Recipe, tokenizer: Tokenizer, train: Ragged, validation: Ragged) -> Learner:
    if recipe.tokenizer.kind != "word":
        raise RecipeError("task word_vectors needs tokenizer.kind word")
    if unknown := sorted(set(recipe.model.config) - {"hidden_size"}):
        raise RecipeError(f"unknown recipe key model.config.{unknown[0]}: there is hidden_size")
    size = recipe.model.config.get("hidden_size", WordVectorsConfig().hidden_size)
    if type(size) is not int or not 1 <= size <= 4096:
        raise RecipeError(f"model.config.hidden_size must be 1 to 4096, not {size!r}")
    unknown_id = tokenizer.token_to_id(UNKNOWN)
    assert unknown_id is not None, "every tokenizer of words has it"
    counts: IntArray = np.bincount(train.flat, minlength=tokenizer.get_vocab_size())
    counts[unknown_id] = 0
    section = recipe.vectors or VectorsSection()
    kind = Glove if section.method == "glove" else Word2Vec
    return kind(
        section, train, validation, counts, unknown_id, size, recipe.batch_size, recipe.seed
    )


def _learn(context: JobContext, recipe: Recipe, learner: Learner) -> Progress:
    """Take all steps, from the newest checkpoint on where there is one."""
    root, module, total = context.checkpoint_dir / "checkpoints", learner.module, learner.num_steps
    nothing = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)  # keeps no state
    progress = checkpoint.load_latest(root, module, nothing, context.log) or Progress()
    if progress.step:
        context.log(f"going on from the checkpoint of step {progress.step}")
    every, epoch = max(1, total // POINTS), max(1, total // recipe.steps)
    while progress.step < total:
        context.wait_while_paused()
        context.raise_if_cancelled()
        begun = _now(context)
        loss = learner.step(progress.step)
        progress.step += 1
        if not np.isfinite(loss):
            raise DivergedError(
                f"the loss became {loss} at step {progress.step}: lower vectors.learning_rate"
            )
        is_last = progress.step == total
        speed = learner.words_in(progress.step - 1) / max(_now(context) - begun, 1e-9)
        point = {"step": float(progress.step), "loss": loss, "words_per_s": speed}
        if is_last or progress.step % epoch == 0:
            point["validation_loss"] = learner.validation_loss()
        progress.seconds += _now(context) - begun
        if "validation_loss" in point or progress.step % every == 0:
            _report(context, progress, point, total)
        if is_last or context.is_leaving or progress.step % recipe.checkpoint_every == 0:
            checkpoint.save(root, module, nothing, progress)
        if context.is_leaving and not is_last:
            raise CancelledError
    return progress


def _report(context: JobContext, progress: Progress, point: dict[str, float], total: int) -> None:
    progress.curve.append(point)
    context.metric(progress.step, **{k: v for k, v in point.items() if k != "step"})
    said = f"loss {point['loss']:.3f} · {point['words_per_s']:,.0f} words/s"
    context.progress(progress.step, total, said)


def _now(context: JobContext) -> float:
    return time.perf_counter() - context.still_s


def _analogies(tokenizer: Tokenizer, matrix: FloatMatrix) -> dict[str, float]:
    """Return the share of the starter text's questions of which the first answer is right."""
    vocabulary = tokenizer.get_vocab()
    vectors = Vectors(sorted(vocabulary, key=vocabulary.__getitem__), matrix)
    asked = [tuple(tokenizer.encode(word).tokens[0] for word in q) for q in questions()]
    right = [vectors.analogy(a, b, c, 1)[0]["word"] == d for a, b, c, d in asked]
    return {"accuracy": sum(right) / len(right), "questions": len(right)}


def _check(directory: Path, vectors: torch.Tensor) -> None:
    """See that anyone who loads the directory has what was learned."""
    register()
    loaded = AutoModel.from_pretrained(directory).get_input_embeddings().weight
    if not torch.equal(loaded, vectors):
        raise PublishingError("the saved vectors differ from those that were learned")
