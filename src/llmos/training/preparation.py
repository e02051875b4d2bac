"""From a recipe's data to a tokenizer and token arrays; a resumed job reads them back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from llmos.data import encoding
from llmos.data.encoding import Columns, Ragged
from llmos.data.record import Annotated, Labelled, Record
from llmos.data.spans import bio_labels
from llmos.data.tokenizers import (
    Specials,
    Splitting,
    given_words,
    specials_of,
    train_byte_bpe,
    train_character,
    train_words,
)
from llmos.errors import DataError, RecipeError
from llmos.models.codes import CODE_TOKENS
from llmos.training.base_model import BaseModel
from llmos.training.encoder import COLUMNS, Encoder, Log
from llmos.training.examples import Data, texts_of
from llmos.training.recipe import LATENT, MIN_BLOCK_SIZE, Recipe


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training reads. ``labels`` are the classes or BIO tags, in the order of the logits."""

    tokenizer: Tokenizer
    labels: list[str] | None
    train: Columns
    validation: Columns


def prepare(
    recipe: Recipe,
    data: Data,
    base: BaseModel | None,
    directory: Path,
    log: Log,
    words: Sequence[str] = (),
) -> Prepared:
    """Train the tokenizer and encode both splits, or read back what an earlier attempt kept.

    Args:
        words: those of word vectors, for a tokenizer of kind `vectors`.

    Raises:
        DataError: the data is not usable or too short.
        RecipeError: recipe and data do not fit together.
    """
    if not directory.exists():
        partial = directory.with_name(f".{directory.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _build(recipe, data, base, partial, log, words)
        partial.rename(directory)
    names = COLUMNS[recipe.reads]
    return Prepared(
        Tokenizer.from_file(str(directory / "tokenizer.json")),
        json.loads((directory / "labels.json").read_text()),
        encoding.load(directory, "train", names),
        encoding.load(directory, "validation", names),
    )


def specials_for(recipe: Recipe) -> Specials:
    """The special tokens of a recipe that trains its own tokenizer."""
    more = list(recipe.tokenizer.special_tokens)
    if recipe.objective in LATENT:
        more = [*CODE_TOKENS, *more]
    return specials_of(recipe.task, more, recipe.tokenizer.end_token)


def _build(
    recipe: Recipe,
    data: Data,
    base: BaseModel | None,
    directory: Path,
    log: Log,
    words: Sequence[str],
) -> None:
    if data.is_text:
        if recipe.reads != "generate":
            needs = f"task {recipe.task}"
            if recipe.reads == "texts":
                needs = f"objective {recipe.objective}"
            raise RecipeError(f"{recipe.data.path} is plain text: {needs} needs records")
        if recipe.data.validation_path is not None:
            raise RecipeError(
                "data.validation_path is for records: of plain text, the end validates"
            )
        tokenizer, splits = _prepare_text(recipe, data.text(), base)
        labels = None
    else:
        train, validation = data.split("train"), data.split("validation")
        tokenizer = base.tokenizer if base else train_tokenizer(recipe, map(texts_of, train), words)
        labels = labels_of(recipe, [*train, *validation])
        specials = base.specials if base else specials_for(recipe)
        encoder = Encoder(recipe, tokenizer, specials, labels)
        splits = {
            "train": encoder.encode("train", train, log),
            "validation": encoder.encode("validation", validation, log),
        }
        if recipe.reads == "generate":
            splits = _long_enough(recipe, splits)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "labels.json").write_text(json.dumps(labels))
    for name, columns in splits.items():
        encoding.save(columns, directory, name)


def _prepare_text(
    recipe: Recipe, text: str, base: BaseModel | None
) -> tuple[Tokenizer, dict[str, Columns]]:
    """The last share of a running text validates. Characters are taken from all of it."""
    cut = int(len(text) * (1 - recipe.data.validation))
    is_character = recipe.tokenizer.kind == "character"
    learn_from = text if is_character else text[:cut]
    tokenizer = base.tokenizer if base else train_tokenizer(recipe, [_lines(learn_from)])
    splits: dict[str, Columns] = {
        name: {"tokens": encoding.encode_stream(tokenizer, [part], None)}
        for name, part in (("train", text[:cut]), ("validation", text[cut:]))
    }
    return tokenizer, _long_enough(recipe, splits)


def train_tokenizer(
    recipe: Recipe, texts: Iterable[Iterable[str]], words: Sequence[str] = ()
) -> Tokenizer:
    """Train the tokenizer the recipe describes; one of kind `vectors` is made of ``words``."""
    section = recipe.tokenizer
    pieces = (piece for text in texts for piece in text)
    specials = specials_for(recipe)
    if section.kind == "character":
        return train_character(pieces, specials)
    splitting = Splitting(
        section.split_cjk,
        section.split_punctuation,
        section.split_digits,
        section.drop_spaces,
        section.lowercase,
    )
    if section.kind == "word":
        return train_words(pieces, specials, section.vocab_size, section.min_count, splitting)
    if section.kind == "vectors":
        return given_words(words, specials, splitting)
    return train_byte_bpe(pieces, specials, section.vocab_size, splitting)


def labels_of(recipe: Recipe, records: Sequence[Record]) -> list[str] | None:
    """The classes of a classifier or the tags of an entity model; None for other tasks.

    Raises:
        DataError: a record has a label that `labels` does not list, or there are under two.
    """
    if recipe.task not in ("classify", "entities"):
        return None
    found: set[str] = set()
    for record in records:
        if isinstance(record, Labelled):
            found.add(record.label)
        elif isinstance(record, Annotated):
            found.update(entity.label for entity in record.entities)
    if recipe.labels is not None and found - set(recipe.labels):
        extra = ", ".join(sorted(found - set(recipe.labels)))
        raise DataError(f"{recipe.data.path} has labels that the recipe does not list: {extra}")
    labels = recipe.labels or sorted(found)
    if recipe.task == "entities":
        labels = bio_labels(labels)
    if len(labels) < 2:
        raise DataError(f"{recipe.data.path} has {len(labels)} labels: at least 2 are needed")
    return labels


def _lines(text: str) -> Iterator[str]:
    return iter(text.splitlines(keepends=True))


def _long_enough(recipe: Recipe, splits: dict[str, Columns]) -> dict[str, Columns]:
    """Both streams with at least one block each, moving the border where one is too short.

    Raises:
        DataError: there are not two blocks.
    """
    need = recipe.block_size + 1
    train = splits["train"]["tokens"].flat
    tokens = np.concatenate([train, splits["validation"]["tokens"].flat])
    if len(tokens) < 2 * need:
        fits = len(tokens) // 2 - 1
        shorter = f" or --set block_size={fits}" if fits >= MIN_BLOCK_SIZE else ""
        raise DataError(
            f"{recipe.data.path} has {len(tokens)} tokens; block_size {recipe.block_size} needs at "
            f"least {2 * need} (one block to train on, one to validate on): "
            f"use a longer text{shorter}"
        )
    border = min(max(len(train), need), len(tokens) - need)
    return {
        "train": {"tokens": Ragged.of([tokens[:border]])},
        "validation": {"tokens": Ragged.of([tokens[border:]])},
    }
