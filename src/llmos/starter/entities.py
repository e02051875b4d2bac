"""Entity records: news-, mail- and diary-like sentences with the names in them marked.

`text/entities/*.tsv`: id, language, sentence. `<PAST>` stands for one of the phrases so named in
`text/entities/phrases/*.tsv`: name, label, language, phrase ("on [{d:cal_weekday}]": the entity is
what the brackets hold, or all of the phrase).
"""

import re
from collections.abc import Iterator
from functools import cache
from random import Random
from typing import TypedDict

from llmos.starter.grammar import SLOT, Split, Template, load_lexicon, read_tsv, samples
from llmos.starter.variants import informal, shares, take_turns

LANGUAGES = ("en", "zh")
LABELS = ("PERSON", "LOCATION", "ORGANIZATION", "DATE", "TIME", "MONEY")
WORDINGS = 16
PHRASE = re.compile(r"<(\w+)>")
MARKED = re.compile(r"⟨(\w+):([^⟩]*)⟩")


class Entity(TypedDict):
    """Characters `start` to `end` (exclusive) name something of kind `label`."""

    start: int
    end: int
    label: str


class Record(TypedDict):
    """A sentence and its entities, in order."""

    text: str
    entities: list[Entity]
    lang: str


@cache
def load_phrases() -> dict[tuple[str, str], list[str]]:
    """Phrases by (language, name), each with its entity between ⟨LABEL: and ⟩."""
    phrases: dict[tuple[str, str], list[str]] = {}
    for name, label, language, phrase in read_tsv("entities/phrases"):
        before, bracket, rest = phrase.partition("[")
        entity, _, after = rest.partition("]") if bracket else (phrase, "", "")
        marked = f"{before if bracket else ''}⟨{label}:{entity}⟩{after}"
        phrases.setdefault((language, name), []).append(marked)
    return phrases


@cache
def load_templates(language: str) -> tuple[Template, ...]:
    """Each sentence in WORDINGS choices of phrases; those of one line share its id."""
    return tuple(
        Template.parse(name, {language: _wording(sentence, language, Random(f"{name}:{i}"))})
        for name, line_language, sentence in read_tsv("entities")
        if line_language == language
        for i in range(WORDINGS)
    )


def _wording(sentence: str, language: str, random: Random) -> str:
    """`sentence` with a phrase for each `<NAME>`; slots are renamed to stay apart."""
    pattern, position = "", 0
    for i, match in enumerate(PHRASE.finditer(sentence)):
        phrase = random.choice(load_phrases()[language, match[1]])
        pattern += sentence[position : match.start()] + _numbered(phrase, i)
        position = match.end()
    return pattern + sentence[position:]


def _numbered(phrase: str, i: int) -> str:
    """`phrase` with `i` after the name of each of its slots."""
    return SLOT.sub(lambda slot: f"{{{slot[1]}{i}{slot[0][1 + len(slot[1]) :]}", phrase)


def records(split: Split, seed: int, rows: int) -> Iterator[Record]:
    """`rows` records {"text", "entities", "lang"} of `split`, the languages in turn."""
    streams = [
        _stream(language, split, seed, share)
        for language, share in zip(LANGUAGES, shares(rows, len(LANGUAGES)), strict=True)
    ]
    return take_turns(streams)


def _stream(language: str, split: Split, seed: int, rows: int) -> Iterator[Record]:
    random = Random(f"{split}:{seed}:{language}")
    for sample in samples(load_templates(language), load_lexicon(), split, seed, rows):
        text, entities = unmark(sample.renderings[language].text)
        if language == "en":
            text = text[:1].upper() + text[1:]
        typed = informal(text, random)
        for entity in entities:
            entity["end"] = min(entity["end"], len(typed))
        yield {"text": typed, "entities": entities, "lang": language}


def unmark(marked: str) -> tuple[str, list[Entity]]:
    """The plain text of "⟨PERSON:Alice⟩ sings." and where its entities stand."""
    marked = marked.replace(".⟩.", ".⟩")
    text, entities, position = "", [], 0
    for match in MARKED.finditer(marked):
        text += marked[position : match.start()]
        entities.append(Entity(start=len(text), end=len(text) + len(match[2]), label=match[1]))
        text, position = text + match[2], match.end()
    return text + marked[position:], entities
