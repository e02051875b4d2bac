"""Given names and surnames that faker knows, and the words of English that symspellpy knows.

Their lists are read where they are installed; those of this project come first where they differ.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from llmos.data.pii.lexicon_en import AMBIGUOUS, GIVEN, PLAIN_SURNAMES, SURNAMES
from llmos.data.pii.ordinary_en import BEGINNING, FUNCTION, PLACES
from llmos.storage.parquet import check_packages

PACKAGES = {"faker": "faker", "symspellpy": "symspellpy"}
"""Modules whose lists are read -> the packages they come from."""
_COMMON, _FIRM = 20_000_000, 200_000
"""How often symspellpy counts a word that is more usual than the name that is written like it, and
one that is about as usual."""
_HOUSE = GIVEN | AMBIGUOUS | SURNAMES | PLAIN_SURNAMES
_WORDS_FILE = "frequency_dictionary_en_82_765.txt"


@cache
def given_names() -> frozenset[str]:
    """Return given names of some eighty languages in Latin letters: lower case, without accents.

    Raises:
        DataError: faker or symspellpy is not installed.
    """
    return GIVEN | AMBIGUOUS | _rare(_names("first_name"))


@cache
def surnames() -> frozenset[str]:
    """Return surnames, as `given_names`."""
    return SURNAMES | _rare(_names("last_name"))


@cache
def sure_names() -> frozenset[str]:
    """Return what hardly any English word is written like."""
    counts = _counts()
    known = _names("first_name") | _names("last_name")
    return frozenset(name for name in known if counts.get(name, 0) < _FIRM and len(name) > 2)


@cache
def english_words() -> dict[str, int]:
    """Return the words of English that are no names -> how often they are."""
    names = _rare(_names("first_name")) | _rare(_names("last_name")) | _HOUSE
    counts = {word: count for word, count in _counts().items() if word not in names}
    return counts | dict.fromkeys((BEGINNING | FUNCTION | PLACES) - _HOUSE, _COMMON)


def _rare(names: frozenset[str]) -> frozenset[str]:
    counts = _counts()
    rare = frozenset(name for name in names if counts.get(name, 0) < _COMMON and len(name) > 1)
    return rare - BEGINNING - FUNCTION - PLACES


@cache
def _names(field: str) -> frozenset[str]:
    """Read the lists of faker's persons: tuples, lists or dicts of names by their attributes."""
    return frozenset(name for name in _read(field) if name.isascii() and name.isalpha())


def _read(field: str) -> Iterator[str]:
    check_packages(PACKAGES)
    persons = importlib.import_module("faker.providers.person")
    for module in pkgutil.iter_modules(persons.__path__):
        provider = importlib.import_module(f"{persons.__name__}.{module.name}").Provider
        for attribute in dir(provider):
            value = getattr(provider, attribute)
            if attribute.startswith(field) and isinstance(value, tuple | list | Mapping):
                for name in value:
                    for part in str(name).replace("-", " ").split():
                        yield _folded(part)


def _folded(name: str) -> str:
    return "".join(char for char in unicodedata.normalize("NFD", name.lower()) if char.isalnum())


@cache
def _counts() -> dict[str, int]:
    """Read symspellpy's dictionary: lines of a word and how often it is."""
    check_packages(PACKAGES)
    found = importlib.util.find_spec("symspellpy")
    assert found is not None and found.origin is not None
    lines = (Path(found.origin).parent / _WORDS_FILE).read_text("utf-8-sig").splitlines()
    return {word: int(count) for word, _, count in (line.partition(" ") for line in lines)}
