"""Tagged records: sentences of words, each with its universal part of speech, and their trees.

`text/tagged/*.tsv`: id, language, sentence, tree; a word is written `word/TAG`, and
`{f:fruit}/NOUN` is filled as `grammar` says. The tree says `HEAD:RELATION` of each word, the
numbers being those of words in the template. Of a filler of several words each has the tag; below
the last of a common noun's, or the first of another's, hang the others.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TypedDict

from llmos.starter.grammar import Split, Template, load_lexicon, read_tsv, samples

LANGUAGES = ("en", "zh")
WITHIN = {"NOUN": "compound", "PROPN": "flat"}
"""The relation of the words of a filler to the one that the others hang below; else `compound`."""


class Record(TypedDict):
    """A sentence, its words, the part of speech of each, its head (from 1; the root's is 0), and
    its relation to that."""

    text: str
    tokens: list[str]
    upos: list[str]
    heads: list[int]
    deprel: list[str]
    lang: str


@cache
def load_templates(language: str) -> tuple[Template, ...]:
    """The sentences of a language."""
    return tuple(
        Template.parse(name, {language: sentence})
        for name, line_language, sentence, _ in read_tsv("tagged")
        if line_language == language
    )


@cache
def load_trees() -> dict[str, str]:
    """The tree of each template, by id."""
    return {name: tree for name, _, _, tree in read_tsv("tagged")}


def records(language: str, split: Split, seed: int, rows: int) -> Iterator[Record]:
    """`rows` records {"text", "tokens", "upos", "heads", "deprel", "lang"} of `split`."""
    trees = load_trees()
    for sample in samples(load_templates(language), load_lexicon(), split, seed, rows):
        marked = sample.renderings[language].text
        yield unmarked(marked, trees[sample.template.id], language)


def unmarked(marked: str, tree: str, language: str) -> Record:
    """The words, tags and tree of "Alice/PROPN sings/VERB ./PUNCT" and "2:nsubj 0:root 2:punct",
    and the text that they make up."""
    groups: list[tuple[list[str], str]] = []
    words: list[str] = []
    for piece in marked.split(" "):
        word, slash, tag = piece.rpartition("/")
        words.append(word if slash else piece)
        if slash:
            groups.append((words, tag))
            words = []
    heads, relations = _hung(groups, tree)
    tokens = [word for own, _ in groups for word in own]
    tags = [tag for own, tag in groups for _ in own]
    text = ""
    for token, tag in zip(tokens, tags, strict=True):
        text += f" {token}" if text and language == "en" and tag != "PUNCT" else token
    return Record(text=text, tokens=tokens, upos=tags, heads=heads, deprel=relations, lang=language)


def _hung(groups: Sequence[tuple[list[str], str]], tree: str) -> tuple[list[int], list[str]]:
    """The heads and relations of all words, of a tree over groups of them."""
    tops, first = [0], 1
    for words, tag in groups:
        tops.append(first + len(words) - 1 if tag == "NOUN" else first)
        first += len(words)
    heads: list[int] = []
    relations: list[str] = []
    for number, ((words, tag), arc) in enumerate(zip(groups, tree.split(" "), strict=True), 1):
        head, _, relation = arc.partition(":")
        for _ in words:
            is_top = len(heads) + 1 == tops[number]
            heads.append(tops[int(head)] if is_top else tops[number])
            relations.append(relation if is_top else WITHIN.get(tag, "compound"))
    return heads, relations
