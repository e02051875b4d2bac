from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.models.lexicon import Lexicon, Word, jieba_lexicon
from llmos.models.units import analysed, shape_of, told_of, units_of

LEXICON = Lexicon(
    {"我": Word(9, "r"), "喜欢": Word(5, "v"), "北京": Word(5, "ns"), "北京人": Word(3, "n")}
)


def test_units_are_words_and_single_characters() -> None:
    text = "It's 3.50元，北京 ok"
    told = [text[start:end] for start, end in units_of(text)]
    assert told == ["It", "'", "s", "3", ".", "50", "元", "，", "北", "京", "ok"]


@given(text=st.text(max_size=40))
def test_units_hold_all_that_is_seen_once_and_in_order(text: str) -> None:
    spans = units_of(text)
    assert "".join(text[start:end] for start, end in spans) == "".join(text.split())
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


@given(data=st.binary(max_size=40))
def test_any_bytes_have_features_below_the_number_of_buckets(data: bytes) -> None:
    found = analysed(data, 97, None)
    assert len(found.unit_of) == len(data)
    assert len(found.first) == len(found.features)
    assert all(0 <= feature < 97 for unit in found.features for feature in unit)
    assert all(found.unit_of[first] == number for number, first in enumerate(found.first))


def test_bytes_of_a_character_are_of_one_unit() -> None:
    found = analysed("a好 é".encode(), 97, None)
    assert found.first == (0, 1, 5) and found.unit_of == (0, 1, 1, 1, -1, 2, 2)


def test_shapes_say_what_kinds_of_character_there_are() -> None:
    assert [shape_of(word) for word in ("Paris", "USA", "2019", "iPhone", "好", "，")] == [
        *("Xx", "X", "d", "xXx", "c", "，")
    ]


def test_features_tell_of_the_word_and_its_neighbours() -> None:
    text = "He walked home"
    (_, walked, _) = told_of(text, units_of(text), None)
    assert {"lower=walked", "suffix=ed", "prefix=w", "shape=x", "-1=he", "+1=home"} <= {*walked}


def test_the_likeliest_cut_and_the_longest_words_are_told() -> None:
    assert LEXICON.cut("我喜欢北京人") == [(0, 1), (1, 3), (3, 6)]
    text = "喜欢北京人"
    told = [*told_of(text, units_of(text), LEXICON)]
    assert {"cut=B", "tag=vB", "begins=2", "ends=0"} <= {*told[0]}
    assert {"cut=M", "ends=2", "inside=3"} <= {*told[3]}


def test_jieba_s_dictionary_has_its_words() -> None:
    pytest.importorskip("jieba")
    lexicon = jieba_lexicon()
    assert len(lexicon) > 300_000 and lexicon.tag("北京") == "ns"
    assert [end - start for start, end in lexicon.cut("我们喜欢北京")] == [2, 2, 2]
