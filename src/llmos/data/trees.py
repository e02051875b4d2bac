"""Sentences as words and the tree over them, which parsers learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmos.errors import DataError
from llmos.models.words import UPOS, joined

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Parsed:
    """A sentence and its tree.

    Attributes:
        words: one or more, none of them empty.
        heads: of each word the number of the one that it hangs below, from 1; 0 of one word.
        relations: of each word to its head.
        tags: the part of speech of each, of `UPOS`; none where they are not known.
    """

    words: tuple[str, ...]
    heads: tuple[int, ...]
    relations: tuple[str, ...]
    tags: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The sentence as a parser reads it."""
        return joined(self.words)


def to_parsed(row: Row, where: str) -> Parsed:
    """Make the record of a row of ``tokens``, ``heads``, ``deprel`` and, if they are known,
    ``upos``: what a row of CoNLL-U has.

    Raises:
        DataError: one is missing, is not as long as the tokens, or the heads make no tree.
    """
    words = _texts(row, "tokens", where, None)
    if not all(word.strip() for word in words):
        raise DataError(f"{where} has an empty word in 'tokens'")
    relations = _texts(row, "deprel", where, len(words))
    tags = _texts(row, "upos", where, len(words)) if row.get("upos") is not None else ()
    if unknown := sorted({*tags} - {*UPOS}):
        raise DataError(
            f"{where}: {unknown[0][:40]!r} in 'upos' is no universal part of speech: there are "
            f"{', '.join(UPOS)}"
        )
    heads = row.get("heads")
    if not isinstance(heads, list) or len(heads) != len(words):
        raise DataError(f"{where} must have one of 'heads' for each of {len(words)} 'tokens'")
    _check_tree(heads, where)
    return Parsed(words, tuple(heads), relations, tags)


def _texts(row: Row, name: str, where: str, count: int | None) -> tuple[str, ...]:
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(one, str) for one in value):
        raise DataError(f"{where} has no list of {name!r}: a row needs tokens, heads and deprel")
    if count is not None and len(value) != count:
        raise DataError(f"{where} must have one of {name!r} for each of {count} 'tokens'")
    return tuple(value)


def _check_tree(heads: Sequence[Any], where: str) -> None:
    count = len(heads)
    if not all(type(head) is int and 0 <= head <= count for head in heads):
        raise DataError(f"{where}: 'heads' must be numbers of words, from 1 to {count}, or 0")
    if heads.count(0) != 1:
        raise DataError(f"{where}: one of 'heads' must be 0, not {heads.count(0)}")
    below_root: set[int] = set()
    for number in range(1, count + 1):
        path: set[int] = set()
        while number and number not in below_root:
            if number in path:
                raise DataError(f"{where}: 'heads' go in a circle at word {number}")
            path.add(number)
            number = heads[number - 1]
        below_root |= path
