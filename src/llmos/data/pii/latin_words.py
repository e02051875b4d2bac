"""Words in Latin letters, and what each is known as: a given name, a surname, or neither."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from llmos.data.pii.known_words import english_words, given_names, sure_names, surnames
from llmos.data.pii.lexicon_en import AMBIGUOUS, GIVEN, PLAIN_SURNAMES, SURNAMES
from llmos.data.pii.ordinary_en import BEGINNING, FUNCTION, PLACES

_LETTER = r"A-Za-z\u00c0-\u024f\u1e00-\u1eff"
_WORD = re.compile(
    rf"(?<![A-Za-z0-9_@#\\=&+])(?<![A-Za-z0-9]-)(?<!/(?=[a-z]))(?<![a-z0-9]\.(?=[a-z]))[{_LETTER}]+(?:['-][{_LETTER}]+)*(?![A-Za-z0-9_@/\\=\u00c0-\u024f])"
)
_SURNAME_FORM = re.compile(
    r"(?:Mc|Mac|O'|Fitz|D'|De|Van|Al-|El-|Ben-)[A-Z][a-z]+|[A-Z][a-z]{2,}(?:sson|ssen|owski|ewski|"
    r"inski|enko|ovic|ović|vich|ovich|evich|opoulos|oulos|idis|escu|oglu|oğlu|dottir|stein|mann|"
    r"ishvili|adze|nyan|asamy|swamy|etti|elli|ucci|quez|guez|nández)"
)


_NOT_SURE = AMBIGUOUS | FUNCTION


@dataclass(frozen=True, slots=True)
class LatinWord:
    """A word of the text: without a possessive, and what it is known as."""

    start: int
    end: int
    text: str
    key: str
    gap: str
    """What stands between it and the word before."""

    @property
    def is_capital(self) -> bool:
        """Whether it begins with a capital."""
        return self.text[0].isupper()

    @property
    def is_upper(self) -> bool:
        """Whether it is in capitals."""
        return len(self.text) > 1 and self.text.isupper()

    @property
    def is_initial(self) -> bool:
        """Whether it is a capital alone."""
        return len(self.text) == 1 and self.is_capital

    @property
    def is_ordinary(self) -> bool:
        """Whether it is a word of the language or a place, and no given name."""
        return self.key in FUNCTION or (
            (self.key in BEGINNING or self.key in PLACES) and not self.is_given
        )

    @property
    def is_given(self) -> bool:
        """Whether it can be a given name."""
        return _is_given(self.key)

    @property
    def is_sure_given(self) -> bool:
        """Whether it is hardly anything but a given name."""
        is_sure = self.key in GIVEN or "-" in self.key or self.key in sure_names()
        return self.is_given and is_sure and self.key not in _NOT_SURE

    @property
    def is_usual_given(self) -> bool:
        """Whether it is a given name of this project's own list, and hardly anything else."""
        return self.key in GIVEN and self.is_sure_given

    @property
    def is_surname(self) -> bool:
        """Whether it can be a surname."""
        return self.key in surnames() or _SURNAME_FORM.fullmatch(self.text) is not None

    @property
    def is_sure_surname(self) -> bool:
        """Whether it is hardly anything but a surname."""
        is_plain = self.key in PLAIN_SURNAMES or self.key in BEGINNING or self.key in PLACES
        is_sure = self.key in SURNAMES or self.key in sure_names() or self.key not in surnames()
        return self.is_surname and is_sure and not is_plain

    @property
    def is_english(self) -> bool:
        """Whether it is a word of English, and no name in any list."""
        return self.key in english_words()

    @property
    def usage(self) -> float:
        """How usual it is as a word of English that is no name: from 0 to 1, 1 for 2,000,000 and
        more in symspellpy's count."""
        count = english_words().get(self.key, 0)
        return 0.0 if count < 50_000 else 0.4 if count < 2_000_000 else 1.0


@lru_cache(100_000)
def _is_given(key: str) -> bool:
    return key in given_names() or ("-" in key and any(part in GIVEN for part in key.split("-")))


def latin_words(text: str) -> list[LatinWord]:
    """Return the words of a text, in order."""
    found = []
    end = 0
    for match in _WORD.finditer(text):
        shown = match[0]
        if shown[-2:] in {"'s", "'S"} and len(shown) > 2:
            shown = shown[:-2]
        start, stop = match.start(), match.start() + len(shown)
        found.append(LatinWord(start, stop, shown, _key(shown), text[end:start]))
        end = stop
    return found


@lru_cache(10_000)
def _letter(char: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFD", char) if one.isalpha())


def _key(word: str) -> str:
    """Return a word as the lists have it: in lower case, without accents."""
    word = word.lower()
    return word if word.isascii() else "".join(c if c in "'-" else _letter(c) for c in word)
