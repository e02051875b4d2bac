from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.models.words import features_of, joined

WORDS = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(str.strip),
    min_size=1,
    max_size=6,
)


@given(WORDS)
def test_a_sentence_is_read_as_the_words_that_it_was_given_as(words: list[str]) -> None:
    assert len(features_of(joined(words).encode(), 512, None)) == len(words)


def test_a_space_within_a_word_parts_none() -> None:
    assert joined(["New York", "sleeps"]) == "New\u00a0York sleeps"


@pytest.mark.parametrize("word", ["", " ", "\u3000"])
def test_an_empty_word_is_none(word: str) -> None:
    with pytest.raises(ValueError, match="word 2 is empty"):
        joined(["a", word])


def test_words_that_look_alike_share_features() -> None:
    sings, rings, other = features_of(b"sings rings 12", 1 << 20, None)
    assert len({*sings} & {*rings}) > len({*sings} & {*other})


def test_a_dictionary_says_of_what_kind_a_word_is() -> None:
    plain, known = (features_of("北京".encode(), 1 << 20, one)[0] for one in (None, "jieba"))
    assert {*plain} < {*known}


def test_bytes_that_are_no_text_are_read() -> None:
    assert len(features_of(b"\xe5\x8c a", 512, None)) == 2
