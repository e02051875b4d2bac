"""Dependency parsing: which word of a sentence hangs below which, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmos.data.sentences import sentences
from llmos.data.treebank_words import Span, has_unparted_words, treebank_words
from llmos.errors import InvalidRequestError
from llmos.models.words import UPOS, joined
from llmos.tasks.classify import labels_of
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import check_text
from llmos.tasks.rows import Terms, check_count, rows_of, run_rows
from llmos.types import PipelineOut, PipelineWork

PARSE_TASKS = frozenset({"parse"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word in its tree.

    Attributes:
        id: its number in the sentence, from 1.
        upos: its universal part of speech.
        head: the number of the word that it hangs below; 0 of the sentence's root.
        deprel: its relation to that.
        score: the probability of this head with this relation, as the network sees it.
        start, end: where it stands in the text, in characters; None where words were given.
    """

    id: int
    text: str
    upos: str
    head: int
    deprel: str
    score: float
    start: int | None = None
    end: int | None = None


async def parse_text(
    context: TaskContext, served: Served, text: str, terms: Terms
) -> list[list[Word]]:
    """Return the words of each sentence of a text; sentences and words are found by rules.

    Raises:
        InvalidRequestError: the text is empty, or written without spaces between its words.
        ContextLengthError: a sentence is longer than the model reads.
    """
    check_text(text)
    if has_unparted_words(text):
        raise InvalidRequestError(
            "text is written without spaces between words (Chinese, Japanese, …): give its `words`,"
            " a sentence at a time, as a model that finds words cuts them.",
            param="text",
        )
    spans = [
        [(start + one, start + other) for one, other in treebank_words(text[start:end])]
        for start, end in sentences(text)
    ]
    words = [[text[start:end] for start, end in own] for own in spans]
    return await _parsed(context, served, words, "text", terms, spans)


async def parse_words(
    context: TaskContext, served: Served, words: Sequence[str], terms: Terms
) -> list[list[Word]]:
    """Return the words of one sentence, in its tree.

    Raises:
        InvalidRequestError: there is none, or one is empty.
        ContextLengthError: the sentence is longer than the model reads.
    """
    check_count(len(words), "words")
    return await _parsed(context, served, [words], "words", terms)


async def _parsed(
    context: TaskContext,
    served: Served,
    words: Sequence[Sequence[str]],
    name: str,
    terms: Terms,
    spans: Sequence[Sequence[Span]] = (),
) -> list[list[Word]]:
    labels = labels_of(served)
    try:
        texts = [joined(own) for own in words]
    except ValueError as error:
        raise InvalidRequestError(f"{error}: give some text.", param=name) from None
    check_count(len(texts), name)
    rows = await rows_of(served, texts, [name] * len(texts), truncate=False)
    works = [PipelineWork("parse", row.ids) for row in rows]
    outs = await run_rows(context, served, works, terms)
    return [
        tree_of(out, own, labels, spans[place] if spans else ())
        for place, (out, own) in enumerate(zip(outs, words, strict=True))
    ]


def tree_of(
    out: PipelineOut, words: Sequence[str], labels: Sequence[str], spans: Sequence[Span] = ()
) -> list[Word]:
    """Return words as a parser's answer puts them in a tree.

    Args:
        labels: of relations.
        spans: where the words stand, if they do.

    Raises:
        InvalidRequestError: the model read other words, as it does of the names of its own tokens.
    """
    count = len(words)
    if len(out.token_ids) != 3 * count:
        raise InvalidRequestError(
            f"the model reads {len(out.token_ids) // 3} words where {count} are given: one of them "
            "is the name of a special token of the model ([SEP], …)",
            param="words",
        )
    heads, relations, tags = (out.token_ids[at * count : (at + 1) * count] for at in range(3))
    return [
        Word(
            place + 1,
            word,
            UPOS[tags[place]],
            heads[place],
            labels[relations[place]],
            out.scores[0][place],
            *(spans[place] if spans else (None, None)),
        )
        for place, word in enumerate(words)
    ]
