"""What jieba's dictionary says of Chinese words and names, and the likeliest words of a clause.

The dictionaries of jieba and opencc are read; neither package is imported.
"""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llmos.data.pii.cues_zh import (
    DOUBLE_SURNAMES,
    NO_GIVEN,
    PLACE_NAMES,
    SINGLE_SURNAMES,
    SOUNDS,
    THING_ENDS,
)
from llmos.data.pii.ordinary_zh import LIKE_NAMES, USUAL_SURNAMES
from llmos.storage.parquet import check_packages

PACKAGES = {"jieba": "jieba", "opencc": "opencc-python-reimplemented"}
"""Modules whose dictionaries are read -> the packages they come from."""
UNSEEN_COST, MAX_WORD = 20.0, 8
_COMMON_AS_WORD = 100
"""How often a word that can be a name is in the dictionary, when it is a word all the same."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """What jieba's dictionary says: cost of each word, and of surnames and given characters in
    names."""

    words: dict[str, float]
    names: frozenset[str]
    foreign: frozenset[str]
    surnames: dict[str, float]
    first: dict[str, float]
    last: dict[str, float]
    only: dict[str, float]


def words_of(text: str) -> list[str]:
    """Return the likeliest words of a run of characters, in order: together they are the text.

    Raises:
        DataError: jieba is not installed.
    """
    costs = dictionary().words
    best, back = [0.0] + [math.inf] * len(text), [0] * (len(text) + 1)
    for place in range(len(text)):
        for stop in range(place + 1, min(len(text), place + MAX_WORD) + 1):
            unseen = UNSEEN_COST if stop == place + 1 else math.inf
            cost = best[place] + costs.get(text[place:stop], unseen)
            if cost < best[stop]:
                best[stop], back[stop] = cost, place
    found: list[str] = []
    stop = len(text)
    while stop > 0:
        found.append(text[back[stop] : stop])
        stop = back[stop]
    return found[::-1]


@cache
def simplified() -> dict[int, str]:
    """Return what each traditional character is in simplified writing, by opencc."""
    lines = _path("opencc", "dictionary/TSCharacters.txt").read_text("utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if "\t" in line)
    return {ord(old): new.split(" ")[0] for old, new in pairs if len(new.split(" ")[0]) == 1}


@cache
def dictionary() -> Dictionary:
    """Read jieba's dictionary: lines of a word, how often it is, and its part of speech."""
    counts: dict[str, int] = {}
    tagged: dict[str, set[str]] = {"nr": set(), "nrt": set(), "nrfg": set()}
    with _path("jieba", "dict.txt").open(encoding="utf-8") as lines:
        for line in lines:
            word, count, tag = line.split(" ")
            if len(word) <= MAX_WORD:
                counts[word] = int(count)
                if (tag := tag.strip()) in tagged:
                    tagged[tag].add(word)
    total = sum(counts.values())
    names = tagged["nr"] | tagged["nrfg"]
    names |= {name for name in tagged["nrt"] if len(name) == 3 and name[0] in SINGLE_SURNAMES}
    plain = counts.keys() - names - tagged["nrt"]
    surnames, first, last, only = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for name in names:
        if len(name) == 3 and name[0] in SINGLE_SURNAMES:
            surnames[name[0]] += 1
            first[name[1]] += 1
            last[name[2]] += 1
        elif len(name) == 2 and name[0] in SINGLE_SURNAMES:
            only[name[1]] += 1
    for char in SINGLE_SURNAMES:
        surnames[char] += 3
    return Dictionary(
        words={word: math.log(total / max(count, 1)) for word, count in counts.items()},
        names=frozenset(name for name in names if _is_name(name, counts, plain)),
        foreign=frozenset(
            word
            for word in tagged["nrt"] | {it for it in tagged["nr"] if SOUNDS.issuperset(it)}
            if len(word) >= 2
            and word not in PLACE_NAMES
            and word not in LIKE_NAMES
            and not (word[0] in SINGLE_SURNAMES and not SOUNDS.issuperset(word))
            and (counts[word] <= 60 or (counts[word] <= 1500 and SOUNDS.issuperset(word)))
        ),
        surnames=_costs(surnames),
        first=_costs(first),
        last=_costs(last),
        only=_costs(only + last),
    )


def _is_name(name: str, counts: dict[str, int], plain: Set[str]) -> bool:
    """Whether what the dictionary calls a name is no compound of words (安全措施, 胡椒粉, "
    "高水平)."""
    if len(name) >= 4:
        return name[:2] in DOUBLE_SURNAMES
    if len(name) == 3:
        begins = name[:2] not in DOUBLE_SURNAMES and name[:2] in plain and counts[name[:2]] >= 20
        ends = name[1:] in plain and counts[name[1:]] >= 5000
        return not (begins or ends or name[2] in THING_ENDS)
    is_usual = name[0] in USUAL_SURNAMES or counts[name] < _COMMON_AS_WORD
    return is_usual and name not in LIKE_NAMES and NO_GIVEN.isdisjoint(name[1:])


def _costs(counts: Counter[str]) -> dict[str, float]:
    total = counts.total()
    return {char: math.log(total / count) for char, count in counts.items()}


def _path(module: str, name: str) -> Path:
    """Return a file of a package, which is not imported."""
    check_packages({module: PACKAGES[module]})
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    return Path(found.origin).parent / name
