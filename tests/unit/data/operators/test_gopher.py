"""Gopher's rules keep of English what datatrove's filters keep, with words as spaCy cuts them."""

from __future__ import annotations

import random

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators.english_words import LONGEST_KNOWN, english_tokenizer, english_words
from llmos.data.pipeline.registry import find_operator

WORDS = [
    *("the", "be", "to", "of", "and", "that", "have", "with", "a", "in", "it", "was", "for"),
    *("people", "language", "walked", "quickly", "house", "cat", "known", "river"),
    *("don't", "cannot", "U.S.", "e.g.", "gonna", "well-known", "I'd've", "o'clock", "Mr.", "é"),
    *("7", "12", "3.5", "1,000", "5km", "$5", "100%", "#", "#tag", "…", "*", "-", "•", "►", "—"),
    *("“said”", "it’s", "(so)", ":)", "and/or", "...", "x@y.org", "https://a.b/c?d=1", "’"),
]
MARKS = (".", "!", "?", "...", "…", "", ",", '."', " …")
STARTS = ("", "", "", "- ", "• ", "* ", "  - ")
TOKENIZER = english_tokenizer()
BREAKS = ("\n", "\n", "\n\n", " ", "\r\n", "\n \n", "\t")


def document(seed: int) -> str:
    """Return lines, some of them there before, with or without what makes a text bad."""
    draw = random.Random(seed)
    plain = WORDS[:21] * draw.randint(0, 12)
    words = [*draw.sample(WORDS, draw.randint(4, len(WORDS))), *plain]
    marks, starts = draw.choices(MARKS, k=6), draw.choices(STARTS, k=6)

    def line() -> str:
        said = " ".join(draw.choices(words, k=draw.randint(1, 30))) + draw.choice(marks)
        return draw.choice(starts) + said

    known = [line() for _ in range(draw.randint(1, 30))]
    lines = draw.choices(known, k=len(known)) if draw.random() < 0.3 else known
    return draw.choice(BREAKS).join(lines)


@pytest.mark.parametrize(
    ("name", "filter_type"),
    [
        ("gopher_quality", GopherQualityFilter),
        ("gopher_repetition", GopherRepetitionFilter),
    ],
)
def test_of_english_is_kept_what_datatrove_keeps(
    name: str, filter_type: type[GopherQualityFilter | GopherRepetitionFilter]
) -> None:
    ours, theirs = find_operator(name)(), filter_type()
    kept = 0
    for seed in range(300):
        text = document(seed)
        found = theirs.filter(Document(text=text, id=str(seed)))
        is_kept = found if isinstance(found, bool) else found[0]
        assert (ours.reason(text) is None) == is_kept, (seed, found, ours.reason(text))
        kept += is_kept
    assert 40 <= kept <= 260


@given(
    text=st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
        st.text("ab1 .,'’-—:;()\"/…#$%&@+=~*\n\t\u00a0\u3000", max_size=60),
        st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join),
    )
)
@settings(max_examples=200, deadline=None)
def test_words_are_those_of_spacys_tokenizer_over_the_whole_text(text: str) -> None:
    whole = [token.text.strip() for token in TOKENIZER(text)]
    assert english_words(text) == [word for word in whole if word]


def test_runs_without_a_space_take_no_time_that_grows_with_their_square() -> None:
    assert english_words("(" * 20_000) == ["("] * 20_000
    run = "a" * (LONGEST_KNOWN + 1)
    assert english_words(f"{run} {run}") == [run, run]
