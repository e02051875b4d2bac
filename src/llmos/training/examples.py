"""The records or the running text a recipe's data names, by split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from llmos.data import sources
from llmos.data.record import Conversation, Pair, Preference, Record, to_record
from llmos.errors import DataError, RecipeError
from llmos.training.recipe import Recipe


class Data:
    """The records of a recipe's data, by split.

    Args:
        file: where the uploaded data file lies; None for `starter:` data.
    """

    def __init__(self, recipe: Recipe, file: Path | None) -> None:
        self._recipe = recipe
        data = recipe.data
        self._source = (
            None
            if file is None
            else sources.FileSource(
                file,
                data.path,
                data.format,
                tuple(data.columns) if data.columns else None,
                data.fields,
            )
        )

    @property
    def is_text(self) -> bool:
        """Whether the data is one running text instead of records."""
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
        if recipe.starter is not None:
            default = data.rows if name == "train" else data.validation_rows
            if default is None:
                raise RecipeError(f"data.rows must say how many rows of {data.path} to train on")
            return self._records(
                sources.starter_rows(recipe.starter, name, recipe.seed, rows or default)
            )
        assert self._source is not None
        if name not in ("train", "validation"):
            raise DataError(f"{data.path} has no split {name}: it has train and validation")
        records = self._records(self._source.rows(data.rows))
        chosen = _split(records, data.validation, recipe.seed, data.path)[name == "validation"]
        return chosen[:rows]

    def _records(self, rows: Iterable[tuple[str, dict[str, Any]]]) -> list[Record]:
        return [to_record(self._recipe.reads, row, where) for where, row in rows]


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
        case _:
            return [record.text]


def _split(
    records: list[Record], share: float, seed: int, shown: str
) -> tuple[list[Record], list[Record]]:
    """Train and validation records; equal records never part.

    Raises:
        DataError: there are fewer than two different records.
    """
    fractions = np.array([_fraction(record, seed) for record in records])
    if len(np.unique(fractions)) < 2:
        raise DataError(f"{shown} has {len(records)} records: at least 2 different ones are needed")
    threshold = min(max(share, float(fractions.min())), float(np.sort(np.unique(fractions))[-2]))
    train = [record for record, f in zip(records, fractions, strict=True) if f > threshold]
    return train, [record for record, f in zip(records, fractions, strict=True) if f <= threshold]


def _fraction(record: Record, seed: int) -> float:
    """A number in [0, 1) from what the model reads of a record."""
    read = texts_of(record)[0]
    digest = hashlib.sha256(f"{seed}\x1f{read}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
