"""Question records: a few facts about different people, and a question about one of them.

`text/questions/*.tsv`: id, relation, language, fact, question, slot of the answer. Facts of one
relation are asked for in the same ways, so that words alone do not tell which fact answers. Every
eighth question is about something that the context does not tell.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import TypedDict

from llmos.starter.grammar import Sample, Split, Template, load_lexicon, read_tsv, render, samples
from llmos.starter.variants import shares, take_turns

LANGUAGES = ("en", "zh")
FACTS = (2, 4)
"""In a context, at least and at most."""
UNANSWERED = 8
"""One question of so many."""


class Record(TypedDict):
    """Characters from `start` in the context are the answer, which is empty where there is none."""

    question: str
    context: str
    answer: str
    start: int
    lang: str


@dataclass(frozen=True, slots=True)
class Kind:
    """What a template's fact is about, how it is asked for, and the slot that answers."""

    relation: str
    question: str
    slot: str


@cache
def load_templates(language: str) -> tuple[tuple[Template, ...], dict[str, Kind]]:
    """The facts' templates, and by their id what is asked of each."""
    rows = [row for row in read_tsv("questions") if row[2] == language]
    templates = tuple(Template.parse(row[0], {language: row[3]}) for row in rows)
    return templates, {row[0]: Kind(row[1], row[4], row[5]) for row in rows}


def records(split: Split, seed: int, rows: int) -> Iterator[Record]:
    """`rows` records of `split`, the languages in turn."""
    streams = [
        _stream(language, split, seed, share)
        for language, share in zip(LANGUAGES, shares(rows, len(LANGUAGES)), strict=True)
    ]
    return take_turns(streams)


def _stream(language: str, split: Split, seed: int, rows: int) -> Iterator[Record]:
    templates, kinds = load_templates(language)
    random = Random(f"{split}:{seed}:{language}")
    facts = samples(templates, load_lexicon(), split, seed, rows * (FACTS[1] + 1))
    for number in range(rows):
        chosen: list[Sample] = []
        wanted = random.randint(*FACTS)
        for fact in facts:
            if not any(_clash(fact, other) for other in chosen):
                chosen.append(fact)
            if len(chosen) > wanted:
                break
        if len(chosen) < FACTS[0]:
            return
        asked = random.randrange(len(chosen) - 1)
        is_told = number % UNANSWERED > 0
        yield _record(chosen[:-1], chosen[asked if is_told else -1], kinds, language)


def _clash(one: Sample, other: Sample) -> bool:
    """Whether two facts have a person or a thing in common."""
    ours, theirs = ({entry.en for entry in fact.fillers.values()} for fact in (one, other))
    return bool(ours & theirs)


def _record(told: Sequence[Sample], asked: Sample, kinds: dict[str, Kind], language: str) -> Record:
    kind = kinds[asked.template.id]
    question = render(kind.question, asked.fillers, language).text
    context, answer, start = "", "", 0
    for fact in told:
        context += " " if context and language == "en" else ""
        rendered = fact.renderings[language]
        if fact is asked:
            span = next(span for span in rendered.spans if span.name == kind.slot)
            start = len(context) + span.start
            answer = rendered.text[span.start : span.end]
        context += rendered.text
    return Record(question=question, context=context, answer=answer, start=start, lang=language)
