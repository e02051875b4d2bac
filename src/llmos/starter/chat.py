"""Chat records: short conversations with Starter, a tiny assistant that answers in kind.

`text/chat/*.tsv`: id, language, then turns (user, assistant, user, …) that share their slots.
Besides the grammar's forms a slot has any key of its lexicon entry ("{c:country.capital}"), and in
each language its name in the other (`.zh`, `.en`).
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from random import Random
from typing import TypedDict

from llmos.starter.grammar import (
    Entry,
    Lexicon,
    Sample,
    Split,
    Template,
    load_lexicon,
    read_tsv,
    samples,
)
from llmos.starter.variants import informal, shares, take_turns

LANGUAGES = ("en", "zh")
SYSTEM = {
    "en": ("You are Starter, a small assistant.", "You are a helpful assistant."),
    "zh": ("你是 Starter，一个小助手。", "你是一个乐于助人的助手。"),
}
WITH_SYSTEM = 0.25
GOES_ON = 0.25
LARGEST_TERM = 10
TURNS_OF_FACTS = 3  # how often a template with slots takes its turn, against 1 for fixed ones


class Message(TypedDict):
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


class Record(TypedDict):
    """A conversation that ends with the assistant."""

    messages: list[Message]
    lang: str


def sums() -> Iterator[Entry]:
    """Additions of 1 to LARGEST_TERM, and the subtractions that undo them."""
    for left in range(1, LARGEST_TERM + 1):
        for right in range(1, LARGEST_TERM + 1):
            yield _sum("chat_plus", left, right, left + right)
            yield _sum("chat_minus", left + right, right, left)


def _sum(category: str, left: int, right: int, answer: int) -> Entry:
    terms = {"left": str(left), "right": str(right), "answer": str(answer)}
    name = f"{left} {right}"
    return Entry(category, name, name, terms | {f"zh_{key}": term for key, term in terms.items()})


@cache
def load_chat_lexicon() -> Lexicon:
    """The lexicon with sums, and with each entry's name in the other language."""
    words = [entry for entries in load_lexicon().categories.values() for entry in entries]
    named = [replace(word, extra={**word.extra, "zh": word.zh, "zh_en": word.en}) for word in words]
    return Lexicon([*named, *sums()])


@cache
def load_templates(language: str) -> tuple[Template, ...]:
    """The conversations in `language`, a turn a line; those with slots TURNS_OF_FACTS times."""
    templates = [
        Template.parse(name, {language: "\n".join(turns)})
        for name, line_language, *turns in read_tsv("chat")
        if line_language == language
    ]
    return tuple(
        template for template in templates for _ in range(TURNS_OF_FACTS if template.slots else 1)
    )


def records(split: Split, seed: int, rows: int) -> Iterator[Record]:
    """`rows` records {"messages", "lang"} of `split`, the languages in turn."""
    streams = [
        _stream(language, split, seed, share)
        for language, share in zip(LANGUAGES, shares(rows, len(LANGUAGES)), strict=True)
    ]
    return take_turns(streams)


def _stream(language: str, split: Split, seed: int, rows: int) -> Iterator[Record]:
    """Conversations; some go on to a second subject, some begin with a system message."""
    random = Random(f"{split}:{seed}:{language}")
    lexicon = load_chat_lexicon()
    chosen = samples(load_templates(language), lexicon, split, seed, 2 * rows)
    for _ in range(rows):
        messages: list[Message] = []
        if random.random() < WITH_SYSTEM:
            messages.append({"role": "system", "content": random.choice(SYSTEM[language])})
        for _ in range(1 + (random.random() < GOES_ON)):
            sample = next(chosen, None)
            if sample is not None:
                messages += _messages(sample, language, random)
        if not any(message["role"] == "assistant" for message in messages):
            return
        yield {"messages": messages, "lang": language}


def _messages(sample: Sample, language: str, random: Random) -> Iterator[Message]:
    for i, turn in enumerate(sample.renderings[language].text.split("\n")):
        if i % 2 == 0:
            yield {"role": "user", "content": informal(turn, random)}
        else:
            yield {"role": "assistant", "content": turn}
