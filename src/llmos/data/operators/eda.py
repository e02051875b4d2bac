"""Easy data augmentation (Wei and Zou 2019, arXiv:1901.11196): words replaced by synonyms, put in,
exchanged, left out. English and Chinese.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import Literal, Self

from pydantic import Field, model_validator

from llmos.data.operators.copies import EditOptions, Editor
from llmos.data.operators.pieces import Piece, Span, cut
from llmos.data.operators.synonyms import Nearest, Table
from llmos.data.operators.words import HAN
from llmos.data.pipeline.options import Embedder

Kind = Literal["synonyms", "insert", "swap", "delete"]
Like = Callable[[str], list[str]]
_NEGATIONS = """
not no nor never none nobody nothing neither without hardly cannot 不 没 没有 别 未 无 非
"""
NEGATIONS = frozenset(_NEGATIONS.split())
"""Words that stay as they are: without one a text says the opposite."""

CLOSING = tuple(".,;:!?)]}…")
"""Before which there is no space."""


class EdaOptions(EditOptions):
    kinds: list[Kind] = Field(
        default=["synonyms", "insert", "swap", "delete"],
        min_length=1,
        description="each copy is made in one of these ways, drawn by chance",
    )
    share: float = Field(
        default=0.1, gt=0, le=1, description="of the words, one at least, that is changed"
    )
    synonyms: dict[str, list[str]] = Field(
        default={}, description="word: [words like it]; a small table of ours unless given"
    )
    model: Embedder | None = Field(
        default=None, description="word vectors, whose nearest words are the synonyms"
    )
    nearest: int = Field(default=5, ge=1, le=100, description="how many nearest words")
    least: float = Field(default=0.5, ge=-1, le=1, description="their cosine")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.model is not None and self.synonyms:
            raise ValueError("synonyms come from a model or from a table: give one of them")
        return self


class Eda(Editor[EdaOptions]):
    """Adds copies with some words replaced by synonyms, put in, exchanged or left out (EDA).

    Synonyms come from word vectors, from a table, or from a small one of ours. Negations stay.

    >>> eda = Eda(kinds=["synonyms"], synonyms={"film": ["movie"], "好看": ["精彩"]})
    >>> tried(eda, "A film.", "这部电影不好看。")
    ['A film.', '这部电影不好看。', 'A movie.', '这部电影不精彩。']
    """

    name = "eda"
    options_type = EdaOptions

    def cut(self, text: str, spans: Sequence[Span]) -> list[Piece]:
        """Return a text's words, and what is between them."""
        return cut(text, spans)

    def changed(self, pieces: list[Piece], chance: Random) -> list[Piece]:
        """Return pieces with some words changed in one of the ways."""
        words = sum(piece.is_word for piece in pieces)
        count = max(1, round(self.options.share * words))
        match chance.choice(self.options.kinds):
            case "synonyms":
                return replaced(pieces, count, self._like, chance)
            case "insert":
                return inserted(pieces, count, self._like, chance)
            case "swap":
                return swapped(pieces, count, chance)
            case "delete":
                return deleted(pieces, min(count, words - 1), chance)

    @cached_property
    def _like(self) -> Like:
        options = self.options
        if options.model is None:
            return Table(options.synonyms).like
        return Nearest(self.ask, options.model, options.nearest, options.least).like


def replaced(pieces: list[Piece], count: int, like: Like, chance: Random) -> list[Piece]:
    """Return pieces with up to ``count`` words replaced by words like them."""
    done = list(pieces)
    free = free_words(pieces)
    for place in chance.sample(free, len(free)):
        word = pieces[place].text
        if count and (others := like(word)):
            done[place] = replace(pieces[place], text=_cased(chance.choice(others), word))
            count -= 1
    return done


def inserted(pieces: list[Piece], count: int, like: Like, chance: Random) -> list[Piece]:
    """Return pieces with up to ``count`` words put in, each like one that is there."""
    free = free_words(pieces)
    found: list[str] = []
    for place in chance.sample(free, len(free)):
        if len(found) < count and (others := like(pieces[place].text)):
            found.append(chance.choice(others))
    done = list(pieces)
    for word in found:
        place = chance.choice([place for place, piece in enumerate(done) if piece.is_word])
        gap = "" if HAN.match(word) else " "
        done[place:place] = [Piece(word, is_word=True), Piece(gap)]
    return done


def swapped(pieces: list[Piece], count: int, chance: Random) -> list[Piece]:
    """Return pieces with two words exchanged, ``count`` times."""
    done = list(pieces)
    free = free_words(pieces)
    for _ in range(count if len(free) > 1 else 0):
        one, other = chance.sample(free, 2)
        first, second = done[one].text, done[other].text
        done[one], done[other] = replace(done[one], text=second), replace(done[other], text=first)
    return done


def deleted(pieces: list[Piece], count: int, chance: Random) -> list[Piece]:
    """Return pieces with ``count`` words left out, and a space beside each."""
    free = free_words(pieces)
    gone = set(chance.sample(free, max(0, min(count, len(free)))))
    done: list[Piece] = []
    closes = False
    for place, piece in enumerate(pieces):
        if place in gone:
            closes = True
            continue
        at_a_space = not done or done[-1].text[-1:].isspace()
        if closes and at_a_space and not piece.spans:
            piece = replace(piece, text=piece.text.lstrip(" "))
            if done and not done[-1].spans and piece.text.startswith(CLOSING):
                done[-1] = replace(done[-1], text=done[-1].text.rstrip(" "))
        closes = False
        if piece.text:
            done.append(piece)
    if closes and done and not done[-1].spans:
        done[-1] = replace(done[-1], text=done[-1].text.rstrip(" "))
    return done


def free_words(pieces: list[Piece]) -> list[int]:
    """Return the places of the words that may be changed: of all but negations."""
    return [
        place
        for place, piece in enumerate(pieces)
        if piece.is_word and piece.text.lower() not in NEGATIONS and not _denies(piece.text)
    ]


def _denies(word: str) -> bool:
    return word.lower().replace("’", "'").endswith("n't")


def _cased(word: str, before: str) -> str:
    """Return a word with large letters where the one before had them."""
    if len(before) > 1 and before.isupper():
        return word.upper()
    return word[:1].upper() + word[1:] if before[:1].isupper() else word
