from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.data.treebank_words import has_unparted_words, treebank_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The cook didn't sing.", "The cook did n't sing ."),
        ("It's Li's: we’re late, I cannot!", "It 's Li 's : we ’re late , I can not !"),
        (
            "Dr. Li paid $3.50 in the U.S. (1,000 times)",
            "Dr. Li paid $ 3.50 in the U.S. ( 1,000 times )",
        ),
        ("a well-known end...", "a well - known end ..."),
        (
            "Why?! see https://x.org/a?b=1. or a.b@c.org",
            "Why ?! see https://x.org/a?b=1 . or a.b@c.org",
        ),
        ("at 10:30 on the 1st", "at 10:30 on the 1st"),
        ("naïve café", "naïve café"),
    ],
)
def test_words_are_those_of_treebanks(text: str, words: str) -> None:
    assert [text[start:end] for start, end in treebank_words(text)] == words.split(" ")


@given(st.text(max_size=60))
def test_all_that_is_seen_is_in_a_word_and_in_one(text: str) -> None:
    spans = treebank_words(text)
    assert all(start < end for start, end in spans)
    assert all(one[1] <= other[0] for one, other in pairwise(spans))
    inside = {at for start, end in spans for at in range(start, end)}
    assert all(char.isspace() for at, char in enumerate(text) if at not in inside)
    assert not any(text[at].isspace() for at in inside)


@pytest.mark.parametrize(
    ("text", "expected"), [("a b", False), ("привет", False), ("a 猫", True), ("ねこ", True)]
)
def test_some_letters_have_words_that_no_spaces_part(text: str, expected: bool) -> None:
    assert has_unparted_words(text) is expected
