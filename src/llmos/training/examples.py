"""The records or the running text a recipe's data names, by split."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from llmos.data import sources
from llmos.data.record import (
    Alike,
    Conversation,
    Pair,
    Preference,
    Question,
    Record,
    Tokenized,
    to_record,
)
from llmos.errors import DataError, RecipeError
from llmos.training.recipe import FILE_SPLITS, Recipe
from llmos.training.recipe_sections import FEEDBACK

Located = Path | tuple[Path, ...] | None
"""Where data lies: a file, or the shards of a dataset."""


class Data:
    """The records of a recipe's data, by split.

    Args:
        file: where the uploaded data file lies, or the shards of the dataset; not given for
            `starter:` data.
        validation_file: where that of `data.validation_path` lies, if the recipe has one.
        also: the data of the other tasks, where the recipe is one of several.
        tokenized: paths of the datasets whose token ids are read.
    """

    def __init__(
        self,
        recipe: Recipe,
        file: Located = None,
        validation_file: Located = None,
        *,
        also: Sequence[Data] = (),
        tokenized: Collection[str] = (),
    ) -> None:
        self.parts = (self, *also)
        """Of each task."""
        self._recipe = recipe
        self._tokenized = frozenset(tokenized)
        self._source = self._read_from(file, recipe.data.path)
        self._validation = self._read_from(validation_file, recipe.data.validation_path or "")

    def _read_from(self, file: Located, shown: str) -> sources.Source | None:
        if file is None:
            return None
        data = self._recipe.data
        if isinstance(file, tuple):
            is_tokenized = shown in self._tokenized
            return sources.DatasetSource(file, shown, data.fields, is_tokenized)
        columns = tuple(data.columns) if data.columns else None
        form = "jsonl" if shown.startswith(FEEDBACK) else data.format
        return sources.FileSource(file, shown, form, columns, data.fields)

    @property
    def is_text(self) -> bool:
        """Whether the data is one running text instead of records, and is read as such."""
        if self._recipe.task == "fill_mask":
            return False
        return self._is_running_text

    @property
    def _is_running_text(self) -> bool:
        if self._source is not None:
            return self._source.kind() == "text"
        return self._recipe.starter in sources.STARTER_TEXTS

    def text(self) -> str:
        """The running text."""
        if self._source is not None:
            return self._source.text()
        assert self._recipe.starter is not None
        return sources.starter_text(self._recipe.starter)

    def split(self, name: str, rows: int | None = None) -> list[Record]:
        """The records of a split; files have `train` and `validation`, by a hash of each record.

        Raises:
            DataError: the data is not usable, or has no such split.
        """
        recipe, data = self._recipe, self._recipe.data
        if self._is_running_text:
            if self._validation is not None and name in FILE_SPLITS:
                text = self._validation.text() if name == "validation" else self.text()
                return self._records(sources.paragraphs(text, data.path))[:rows]
            return self._of_file(name, sources.paragraphs(self.text(), data.path), rows)
        if recipe.starter is not None:
            default = data.rows if name == "train" else data.validation_rows
            if default is None:
                raise RecipeError(f"data.rows must say how many rows of {data.path} to train on")
            found = sources.starter_rows(recipe.starter, name, recipe.seed, rows or default)
            return self._records((where, sources.renamed(row, data.fields)) for where, row in found)
        assert self._source is not None
        if self._validation is not None and name in FILE_SPLITS:
            read = self._validation if name == "validation" else self._source
            return self._records(read.rows(rows or data.rows), _kind_of(read))
        kind = _kind_of(self._source)
        return self._of_file(name, self._source.rows(data.rows), rows, kind)

    def _of_file(
        self,
        name: str,
        all_rows: Iterable[tuple[str, dict[str, Any]]],
        rows: int | None,
        kind: str | None = None,
    ) -> list[Record]:
        recipe, data = self._recipe, self._recipe.data
        if name not in ("train", "validation"):
            raise DataError(f"{data.path} has no split {name}: it has train and validation")
        records = self._records(all_rows, kind)
        chosen = _split(records, data.validation, recipe.seed, data.path)[name == "validation"]
        return chosen[:rows]

    def _records(
        self, rows: Iterable[tuple[str, dict[str, Any]]], kind: str | None = None
    ) -> list[Record]:
        return [to_record(kind or self._recipe.reads, row, where) for where, row in rows]


def _kind_of(source: sources.Source) -> str | None:
    """Return what a source's rows are, where the recipe does not tell."""
    is_tokenized = isinstance(source, sources.DatasetSource) and source.is_tokenized
    return "tokens" if is_tokenized else None


def texts_of(record: Record) -> list[str]:
    """Every text in a record, for the tokenizer to learn from."""
    match record:
        case Conversation():
            return [message.content for message in record.messages]
        case Preference():
            answers = (record.chosen, record.rejected)
            return [message.content for message in (*record.messages, *answers)]
        case Pair():
            return [record.source, record.target]
        case Question():
            return [record.context, record.question]
        case Alike():
            return [record.anchor, record.positive, record.negative]
        case Tokenized():
            return []
        case _:
            return [record.text]


def _read(record: Record) -> list[str]:
    """What comes before what is to be learned."""
    texts = texts_of(record)
    match record:
        case Conversation():
            roles = [message.role for message in record.messages]
            last = len(roles) - 1 - roles[::-1].index("assistant")
            return texts[:last] or texts
        case Preference():
            return texts[:-2]
        case _:
            return texts[:1]


def _split(
    records: list[Record], share: float, seed: int, shown: str
) -> tuple[list[Record], list[Record]]:
    """Train and validation records; equal records never part.

    Raises:
        DataError: there are fewer than two different records.
    """
    fractions = [fraction(record, seed) for record in records]
    threshold = held_back(fractions, share, shown)
    train = [record for record, f in zip(records, fractions, strict=True) if f > threshold]
    return train, [record for record, f in zip(records, fractions, strict=True) if f <= threshold]


def held_back(fractions: Sequence[float], share: float, shown: str) -> float:
    """The `fraction` up to which records are held back for validation.

    Raises:
        DataError: there are fewer than two different records.
    """
    found = sorted(set(fractions))
    if len(found) < 2:
        count = len(fractions)
        raise DataError(f"{shown} has {count} records: at least 2 different ones are needed")
    return min(max(share, found[0]), found[-2])


def fraction(record: Record, seed: int) -> float:
    """A number in [0, 1) from what the model reads of a record."""
    if isinstance(record, Tokenized):
        read = record.ids.tobytes()
    else:
        read = "\x1f".join(_read(record)).encode()
    digest = hashlib.sha256(f"{seed}\x1f".encode() + read).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
