"""Words that say little go; what is left are the others, in order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.operators.stop_words import CHINESE, ENGLISH
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import tried
from llmos.data.segmentation import words_in

WORDS = st.lists(
    st.sampled_from(
        [*sorted(ENGLISH)[:40], "River", "don't", "好", "的", "我们", "图书馆", "，", "!"]
    )
)


@given(words=WORDS, gap=st.sampled_from([" ", ""]))
@settings(max_examples=150, deadline=None)
def test_no_stop_word_is_left_and_nothing_is_new(words: list[str], gap: str) -> None:
    text = gap.join(words)
    (left,) = tried(make_operator("stop_words", {}, 0), text)
    assert not {word.lower() for word in words_in(left)} & (ENGLISH | CHINESE)
    letters = iter(text)
    assert all(letter in letters for letter in left if letter != " ")


def test_negations_stay_and_further_words_go() -> None:
    operator = make_operator("stop_words", {"also": ["Film"]}, 0)
    assert tried(operator, "It’s not a good FILM", "这部电影不好看") == [
        "not good",
        "这部 电影 不 好看",
    ]
