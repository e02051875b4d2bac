"""English words as spaCy's tokenizer parts them ("don't." is "do", "n't", "."), which is how
datatrove counts them, whose results Gopher's rules are to give.

A tokenizer cuts each run between spaces by itself, so that common runs are cut once.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from llmos.data.lean_imports import without_networks

if TYPE_CHECKING:
    from spacy.tokenizer import Tokenizer

PACKAGES = {"spacy": "spacy"}
LONGEST_RUN = 1_000
"""Longer ones are first cut to so much: the time of one grows with its square."""
LONGEST_KNOWN = 40
MOST_CHARACTERS = 4_000_000
"""Cut by one tokenizer, which remembers all it has seen."""


def english_words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text."""
    found: list[str] = []
    cut = _cutter()
    known = cut.known
    for run in text.split():
        found += known.get(run) or cut(run)
    return found


class _Cutter:
    """Parts runs of characters without spaces; remembers the short ones.

    Attributes:
        known: a run -> its words.
    """

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self._characters = 0
        self._tokenizer = english_tokenizer()

    def __call__(self, run: str) -> list[str]:
        if self._characters > MOST_CHARACTERS:
            self.known.clear()
            self._characters = 0
            self._tokenizer = english_tokenizer()
        self._characters += len(run)
        words = [
            token.text
            for start in range(0, len(run), LONGEST_RUN)
            for token in self._tokenizer(run[start : start + LONGEST_RUN])
        ]
        if len(run) <= LONGEST_KNOWN:
            self.known[run] = words
        return words


@cache
def _cutter() -> _Cutter:
    return _Cutter()


def english_tokenizer() -> Tokenizer:
    """Return what ``spacy.blank("en")`` has, without what else that loads: a second and 240 MB."""
    with without_networks():
        from spacy.lang.en import English
    from spacy.tokenizer import Tokenizer
    from spacy.util import compile_infix_regex, compile_prefix_regex, compile_suffix_regex
    from spacy.vocab import Vocab

    rules = English.Defaults
    return Tokenizer(
        Vocab(),
        rules=rules.tokenizer_exceptions,
        prefix_search=compile_prefix_regex(rules.prefixes).search,
        suffix_search=compile_suffix_regex(rules.suffixes).search,
        infix_finditer=compile_infix_regex(rules.infixes).finditer,
        token_match=rules.token_match,
        url_match=rules.url_match,
    )
