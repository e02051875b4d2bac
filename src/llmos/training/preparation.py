"""From a recipe's data to a tokenizer and token arrays; a resumed job reads them back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
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
from llmos.data.trees import Parsed
from llmos.errors import DataError, RecipeError
from llmos.models.codes import CODE_TOKENS
from llmos.training.base_model import BaseModel
from llmos.training.corruption import sentinels_of
from llmos.training.encoder import COLUMNS, Encoder, Log
from llmos.training.examples import Data, texts_of
from llmos.training.mixture import columns_of
from llmos.training.recipe import LATENT, MIN_BLOCK_SIZE, Recipe
from llmos.training.recipe_parts import parts_of

Splits = dict[str, Columns]
"""By their names."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What training reads. ``labels`` are the classes or BIO tags, in the order of the logits; of
    several tasks those of each are in ``heads``, and columns are called ``task.column``."""

    tokenizer: Tokenizer
    labels: list[str] | None
    train: Columns
    validation: Columns
    heads: dict[str, list[str]] = field(default_factory=dict)

    def part(self, task: str) -> Prepared:
        """What is read for one task; all of it where there is no other."""
        if not self.heads:
            return self
        return Prepared(
            self.tokenizer,
            self.heads[task] or None,
            columns_of(task, self.train),
            columns_of(task, self.validation),
        )


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
    if recipe.also is not None:
        names = tuple(f"{p.task}.{name}" for p in parts_of(recipe) for name in COLUMNS[p.reads])
    labels = json.loads((directory / "labels.json").read_text())
    return Prepared(
        Tokenizer.from_file(str(directory / "tokenizer.json")),
        labels if recipe.also is None else None,
        encoding.load(directory, "train", names),
        encoding.load(directory, "validation", names),
        {} if recipe.also is None else labels,
    )


def specials_for(recipe: Recipe, tokens: BaseModel | None) -> Specials:
    """The special tokens of a recipe: those of the model whose tokenizer it takes, else its own."""
    if tokens is not None:
        return tokens.specials
    more = list(recipe.tokenizer.special_tokens)
    if recipe.objective == "span_lm":
        return replace(specials_of("translate", more), sentinels=sentinels_of(recipe))
    if recipe.objective in LATENT:
        more = [*CODE_TOKENS, *more]
    is_masked = recipe.also is not None and recipe.also.fill_mask is not None
    task = "fill_mask" if is_masked else recipe.task
    return specials_of(task, more, recipe.tokenizer.end_token)


def _build(
    recipe: Recipe,
    data: Data,
    base: BaseModel | None,
    directory: Path,
    log: Log,
    words: Sequence[str],
) -> None:
    parts = [*zip(parts_of(recipe), data.parts, strict=True)]
    for part, own in parts:
        if own.is_text:
            _check_text(part)
    labels: list[str] | dict[str, list[str]] | None = None
    if data.is_text:
        tokenizer, splits = _prepare_text(recipe, data.text(), base)
    else:
        read = [(part, own.split("train"), own.split("validation")) for part, own in parts]
        texts = (texts_of(record) for _, train, _ in read for record in train)
        tokenizer = base.tokenizer if base else train_tokenizer(recipe, texts, words)
        specials = specials_for(recipe, base)
        made = [
            _encoded(part, tokenizer, specials, train, validation, log)
            for part, train, validation in read
        ]
        if recipe.also is None:
            ((labels, splits),) = made
        else:
            labels, splits = _together(parts_of(recipe), made)
        if recipe.reads == "generate":
            splits = _long_enough(recipe, splits)
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "labels.json").write_text(json.dumps(labels))
    for name, columns in splits.items():
        encoding.save(columns, directory, name)


def _check_text(recipe: Recipe) -> None:
    """Refuse running text where it is of no use. Raises RecipeError."""
    if recipe.reads != "generate":
        needs = f"task {recipe.task}"
        if recipe.reads == "texts":
            needs = f"objective {recipe.objective}"
        raise RecipeError(f"{recipe.data.path} is plain text: {needs} needs records")
    if recipe.data.validation_path is not None:
        raise RecipeError("data.validation_path is for records: of plain text, the end validates")


def _encoded(
    recipe: Recipe,
    tokenizer: Tokenizer,
    specials: Specials,
    train: Sequence[Record],
    validation: Sequence[Record],
    log: Log,
) -> tuple[list[str] | None, Splits]:
    """The labels of one task, and the columns of its splits."""
    labels = labels_of(recipe, [*train, *validation])
    encoder = Encoder(recipe, tokenizer, specials, labels)
    return labels, {
        "train": encoder.encode("train", train, log),
        "validation": encoder.encode("validation", validation, log),
    }


def _together(
    parts: Sequence[Recipe], made: Sequence[tuple[list[str] | None, Splits]]
) -> tuple[dict[str, list[str]], Splits]:
    """The labels of several tasks, and their columns as one split."""
    labels: dict[str, list[str]] = {
        part.task: own or [] for part, (own, _) in zip(parts, made, strict=True)
    }
    splits: Splits = {"train": {}, "validation": {}}
    for part, (_, own_splits) in zip(parts, made, strict=True):
        for split, columns in own_splits.items():
            named = {f"{part.task}.{name}": column for name, column in columns.items()}
            splits[split] |= named
    return labels, splits


def _prepare_text(recipe: Recipe, text: str, base: BaseModel | None) -> tuple[Tokenizer, Splits]:
    """The last share of a running text validates. Characters are taken from all of it."""
    cut = int(len(text) * (1 - recipe.data.validation))
    is_character = recipe.tokenizer.kind == "character"
    learn_from = text if is_character else text[:cut]
    tokenizer = base.tokenizer if base else train_tokenizer(recipe, [_lines(learn_from)])
    splits: Splits = {
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
    specials = specials_for(recipe, None)
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
    """The classes of a classifier, the tags of an entity model or the relations of a parser; None
    for other tasks.

    Raises:
        DataError: a record has a label that `labels` does not list, or there are under two.
    """
    if recipe.task not in ("classify", "entities", "parse"):
        return None
    found: set[str] = set()
    for record in records:
        if isinstance(record, Labelled):
            found.add(record.label)
        elif isinstance(record, Annotated):
            found.update(entity.label for entity in record.entities)
        elif isinstance(record, Parsed):
            found.update(record.relations)
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


def _long_enough(recipe: Recipe, splits: Splits) -> Splits:
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
