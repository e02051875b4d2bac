"""Tagged records: sentences of words, each with its universal part of speech.

`text/tagged/*.tsv`: id, language, sentence; a word is written `word/TAG`, and `{f:fruit}/NOUN` is
filled as `grammar` says. Of a filler of several words each has the tag.
"""

from collections.abc import Iterator
from functools import cache
from typing import TypedDict

from llmos.starter.grammar import Split, Template, load_lexicon, read_tsv, samples

LANGUAGES = ("en", "zh")


class Record(TypedDict):
    """A sentence, its words, and the part of speech of each."""

    text: str
    tokens: list[str]
    upos: list[str]
    lang: str


@cache
def load_templates(language: str) -> tuple[Template, ...]:
    """The sentences of a language."""
    return tuple(
        Template.parse(name, {language: sentence})
        for name, line_language, sentence in read_tsv("tagged")
        if line_language == language
    )


def records(language: str, split: Split, seed: int, rows: int) -> Iterator[Record]:
    """`rows` records {"text", "tokens", "upos", "lang"} of `split`."""
    for sample in samples(load_templates(language), load_lexicon(), split, seed, rows):
        yield untagged(sample.renderings[language].text, language)


def untagged(marked: str, language: str) -> Record:
    """The words and tags of "Alice/PROPN sings/VERB ./PUNCT", and the text that they make up."""
    tokens: list[str] = []
    tags: list[str] = []
    for piece in marked.split(" "):
        word, slash, tag = piece.rpartition("/")
        tokens.append(word if slash else piece)
        tags.append(tag if slash else "")
    for place in range(len(tags) - 2, -1, -1):
        tags[place] = tags[place] or tags[place + 1]
    text = ""
    for token, tag in zip(tokens, tags, strict=True):
        text += f" {token}" if text and language == "en" and tag != "PUNCT" else token
    return Record(text=text, tokens=tokens, upos=tags, lang=language)
