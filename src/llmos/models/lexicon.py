"""Words of a dictionary in Chinese text: those of jieba's, with their frequencies and kinds.

Which words a text is made of is decided by a model trained here (`llmos.models.crf`); this only
tells it what a dictionary has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

DICTIONARIES = ("jieba",)
"""By the names that configs have for them."""
MAX_CHARS = 8
"""Of a word that is looked for."""
Span = tuple[int, int]


class Word(NamedTuple):
    """How often a word was counted, and what kind of word it is: ``n``, ``v``, ``nr``, …"""

    frequency: int
    tag: str


class Lexicon:
    """Words, found in a text.

    Args:
        words: what is known of each.
    """

    def __init__(self, words: dict[str, Word]) -> None:
        self._words = words
        self._log_total = math.log(sum(word.frequency for word in words.values()) or 1)

    def __contains__(self, word: str) -> bool:
        return word in self._words

    def __len__(self) -> int:
        return len(self._words)

    def tag(self, word: str) -> str:
        """Return a word's kind, nothing where it is not known."""
        found = self._words.get(word)
        return found.tag if found else ""

    def matches(self, text: str) -> Iterator[Span]:
        """Yield the (start, end) of each word of two characters or more that stands in a text."""
        for start in range(len(text) - 1):
            if text[start].isascii():
                continue
            for end in range(start + 2, min(start + MAX_CHARS, len(text)) + 1):
                if text[start:end] in self._words:
                    yield start, end

    def cut(self, text: str) -> list[Span]:
        """Return the words that a text is likeliest made of, each by itself; a character that
        begins no word is one."""
        best = [(0.0, 0)] * (len(text) + 1)
        for start in range(len(text) - 1, -1, -1):
            ends = range(start + 1, min(start + MAX_CHARS, len(text)) + 1)
            best[start] = max(
                (self._log_share(text[start:end]) + best[end][0], end)
                for end in ends
                if end == start + 1 or text[start:end] in self._words
            )
        found, start = [], 0
        while start < len(text):
            end = best[start][1]
            found.append((start, end))
            start = end
        return found

    def _log_share(self, word: str) -> float:
        found = self._words.get(word)
        return math.log(max(1, found.frequency if found else 1)) - self._log_total


@lru_cache(maxsize=1)
def jieba_lexicon() -> Lexicon:
    """Return jieba's dictionary, read from the installed package's file.

    Raises:
        ImportError: jieba is not installed.
    """
    found = find_spec("jieba")  # its own code would keep a cache in a folder that all may write to
    if found is None or not found.submodule_search_locations:
        raise ImportError("this model reads with the dictionary of jieba: pip install jieba")
    words = {}
    path = Path(found.submodule_search_locations[0]) / "dict.txt"
    for line in path.read_text("utf-8").splitlines():
        word, count, tag = line.split(" ")
        words[word] = Word(int(count), tag)
    return Lexicon(words)
