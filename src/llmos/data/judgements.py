"""What vectors and rankings are held against: how alike people found two texts, analogies of words,
and which documents answer a query."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from llmos.data.record import Row, score_in, text_in
from llmos.errors import DataError

SECTION = ":"
"""What a line begins with that names the questions after it."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Two texts, and a number that is higher the more alike they were found."""

    anchor: str
    positive: str
    score: float


@dataclass(frozen=True, slots=True)
class Analogy:
    """Words: ``d`` is to ``c`` what ``b`` is to ``a``."""

    a: str
    b: str
    c: str
    d: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """A query, documents, and the places of those that answer it."""

    query: str
    documents: tuple[str, ...]
    relevant: frozenset[int]


def to_judged(row: Row, where: str) -> Judged:
    """Return a row's texts ``anchor`` and ``positive`` with its ``score``. Raises DataError."""
    anchor, positive = (text_in(row, name, where) for name in ("anchor", "positive"))
    return Judged(anchor, positive, score_in(row, where))


def to_analogy(row: Row, where: str) -> Analogy:
    """Return a row's words ``a``, ``b``, ``c`` and ``d``. Raises DataError."""
    return Analogy(*(text_in(row, name, where).strip() for name in "abcd"))


def to_ranking(row: Row, where: str) -> Ranking:
    """Return a row's ``query`` and ``documents``, and by their places, from 0, those that are
    ``relevant``. Raises DataError."""
    documents: Any = row.get("documents")
    relevant: Any = row.get("relevant")
    if not _is_list_of(documents, str) or not _is_list_of(relevant, int):
        raise DataError(f"{where} needs lists: 'documents' of texts, 'relevant' of their places")
    if not set(relevant) <= set(range(len(documents))):
        raise DataError(f"{where}: 'relevant' are places from 0 to {len(documents) - 1}")
    return Ranking(text_in(row, "query", where), tuple(documents), frozenset(relevant))


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is kind for one in value)


def read_analogies(text: str, shown: str) -> Iterator[Analogy]:
    """Yield the questions of a file as word2vec has them: four words a line, apart by spaces, and
    lines that begin with a colon between them (Mikolov et al., arXiv:1301.3781).

    Raises:
        DataError: a line has not four words.
    """
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith(SECTION):
            continue
        if len(words) != 4:
            raise DataError(f"{shown}, line {number} has {len(words)} words where 4 are a question")
        yield Analogy(*words)
