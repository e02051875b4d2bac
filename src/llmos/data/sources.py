"""Where rows come from: text, jsonl, tsv, csv and CoNLL files, datasets, and the text inside llmos.

A file is named twice: ``path`` is where it lies (a blob), ``shown`` is what the user called it.
"""

from __future__ import annotations

import csv
import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from llmos.data.datasets.readers import Bad
from llmos.data.datasets.readers import Source as Sentences
from llmos.data.formats.conll import conll, conllu
from llmos.errors import DataError
from llmos.storage.parquet import read_rows

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".tsv": "tsv",
    ".csv": "csv",
    ".conllu": "conllu",
    ".conll": "conll",
}
STARTER_RECORDS = (
    "chat",
    "translation",
    "sentiment",
    "entities",
    "sentences",
    "questions",
    "alike",
    "ratings",
    "relations",
    "tagged_en",
    "tagged_zh",
)
STARTER_TEXTS = ("tales",)
STARTER_SPLITS = ("train", "validation", "test_combinations", "test_templates")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A data file and how to read it."""

    path: Path
    shown: str
    format: str | None = None
    columns: tuple[str, ...] | None = None
    fields: dict[str, str] = field(default_factory=dict)

    def kind(self) -> str:
        """The format: as given, else by suffix, else plain text."""
        return self.format or FORMATS.get(Path(self.shown).suffix.lower(), "text")

    def text(self) -> str:
        """The whole file. Raises DataError where it is missing, empty, or not UTF-8 text."""
        return read_text(self.path, self.shown)

    def rows(self, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row with the place it came from ("x.jsonl, line 3"), under our field names."""
        read = {
            "jsonl": self._json_rows,
            "tsv": self._cell_rows,
            "csv": self._cell_rows,
            "conllu": self._sentences,
            "conll": self._sentences,
        }
        for where, row in islice(read[self.kind()](), limit):
            yield where, renamed(row, self.fields)

    def _json_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(self.text().split("\n"), 1):  # a text may hold U+2028
            if not line.strip():
                continue
            where = f"{self.shown}, line {number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{where} is not JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{where} must be a JSON object, not {type(row).__name__}")
            yield where, row

    def _sentences(self) -> Iterator[tuple[str, dict[str, Any]]]:
        columns = self.columns or ()
        source = Sentences(self.path, self.shown, self.kind(), encoding="utf-8", columns=columns)
        read = conllu if self.kind() == "conllu" else conll
        for number, row in enumerate(read(source), 1):
            if isinstance(row, Bad):
                raise DataError(f"{row.where}: {row.reason}")
            yield f"{self.shown}, sentence {number}", row

    def _cell_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        lines = self.text().splitlines()
        if self.kind() == "csv":
            reader = csv.reader(lines)
        else:
            reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        header = list(self.columns) if self.columns else next(reader, [])
        for cells in reader:
            where = f"{self.shown}, line {reader.line_num}"
            if not cells:
                continue
            if len(cells) != len(header):
                raise DataError(
                    f"{where} has {len(cells)} columns where {', '.join(header)} "
                    f"makes {len(header)}: name them with --set data.columns=[…]"
                )
            yield where, dict(zip(header, cells, strict=True))


@dataclass(frozen=True, slots=True)
class DatasetSource:
    """The shards of a dataset."""

    shards: tuple[Path, ...]
    shown: str
    fields: dict[str, str] = field(default_factory=dict)
    is_tokenized: bool = False
    """Whether its rows are read as token ids."""

    def kind(self) -> str:
        """Rows, whatever their fields."""
        return "dataset"

    def text(self) -> str:
        """Raises DataError: there is no running text."""
        raise DataError(f"{self.shown} has rows, and is no running text")

    def rows(self, limit: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row with its place (\"dataset:x, row 3\"), under our field names."""
        every = (row for shard in self.shards for row in read_rows(shard))
        for number, row in enumerate(islice(every, limit), 1):
            yield f"{self.shown}, row {number}", renamed(row, self.fields)


Source = FileSource | DatasetSource


def renamed(row: dict[str, Any], fields: dict[str, str]) -> dict[str, Any]:
    """Return a row with our field names beside its own; ``fields`` maps ours to theirs."""
    return {**row, **{ours: row[theirs] for ours, theirs in fields.items() if theirs in row}}


def read_text(path: Path, shown: str) -> str:
    """Return a UTF-8 file as text, without a byte-order mark.

    Raises:
        DataError: it is missing, a folder, empty, binary, or not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"there is no data file {shown}") from None
    except IsADirectoryError:
        raise DataError(f"{shown} is a folder: name a file in it") from None
    if not data.strip():
        raise DataError(f"{shown} is empty: there is nothing to learn from")
    if b"\0" in data:
        raise DataError(f"{shown} is a binary file: training data must be UTF-8 text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{shown} is not UTF-8 text (byte {error.start}): convert it, "
            "for example with `iconv -t utf-8`"
        ) from None


def paragraphs(text: str, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what stands between the blank lines of a text, as rows."""
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text), 1):
        if paragraph.strip():
            yield f"{shown}, paragraph {number}", {"text": paragraph.strip()}


def starter_text(name: str) -> str:
    """Return a text that ships with llmos."""
    return files("llmos.starter").joinpath("text", f"{name}.txt").read_text("utf-8")


def starter_rows(
    name: str, split: str, seed: int, rows: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield rows of a starter record set with the place they came from.

    Raises:
        DataError: there is no such set or split.
    """
    if name not in STARTER_RECORDS:
        known = ", ".join((*STARTER_TEXTS, *STARTER_RECORDS))
        raise DataError(f"there is no starter:{name}: there are {known}")
    if split not in STARTER_SPLITS:
        raise DataError(f"starter:{name} has no split {split}: it has {', '.join(STARTER_SPLITS)}")
    module = importlib.import_module(f"llmos.starter.{name}")
    for number, row in enumerate(module.records(split, seed, rows), 1):
        yield f"starter:{name} {split}, row {number}", row
