"""Pieces of a text: cut where the text says, however it comes, each seen with what is around it."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.tasks.pieces import MAX_KEY_CHARS, MAX_UNBROKEN_CHARS, Pieces, View

LEAST = 8
BITS = st.sampled_from(
    [
        *("word ", "word", ". ", ".", '." ', "\n", "。", "字", " ", "…", "a" * 50),
        *("-----BEGIN RSA PRIVATE KEY", "-----\n", "-----END RSA PRIVATE KEY-----\n"),
    ]
)


def views(bits: list[str], least: int = LEAST) -> list[View]:
    pieces = Pieces(least)
    return [*(view for bit in bits for view in pieces.push(bit)), *pieces.end()]


def own(view: View) -> str:
    return view.text[view.start : view.end]


@given(st.lists(BITS, max_size=60), st.lists(st.integers(1, 40), min_size=1))
def test_where_a_text_is_cut_depends_on_the_text_alone(bits: list[str], sizes: list[int]) -> None:
    text = "".join(bits)
    others, place = [], 0
    while place < len(text):
        size = sizes[len(others) % len(sizes)]
        others.append(text[place : place + size])
        place += size
    assert views([text]) == views(bits) == views(others) == views(list(text))


@given(st.lists(BITS, max_size=60))
def test_the_pieces_are_the_text_each_seen_with_its_neighbours(bits: list[str]) -> None:
    text, cut = "".join(bits), views(bits)
    assert "".join(map(own, cut)) == text
    for view, after in pairwise(cut):
        assert text[view.at : view.at + len(view.text)] == view.text
        assert view.text[view.end :] == own(after)
        assert after.text[: after.start] == own(view)
        assert len(own(view)) >= LEAST


def test_a_piece_ends_with_a_line_a_sentence_or_after_too_many_words() -> None:
    assert [own(view) for view in views(["One line.\nTwo, it is. Three"])] == [
        "One line.\n",
        "Two, it is. ",
        "Three",
    ]
    assert [own(view) for view in views(["第一句话就这样结束了。第二句话"])] == [
        "第一句话就这样结束了。",
        "第二句话",
    ]
    long = [len(own(view)) for view in views(["ab " * 30])]
    assert long[:2] == [33, 33]
    unbroken = [len(own(view)) for view in views(["x" * 10_000])]
    assert unbroken[0] == 4 * LEAST + MAX_UNBROKEN_CHARS


def test_a_private_key_is_not_cut_unless_it_never_ends() -> None:
    key = "-----BEGIN PRIVATE KEY-----\n" + "MIIE0123\n" * 40 + "-----END PRIVATE KEY-----\n"
    assert key.removeprefix("-----") in own(views(["Here it is:\n" + key + "So.\n" * 9])[1])
    endless = views(["-----BEGIN PRIVATE KEY-----\n" + "MIIE0123\n" * 4000])
    assert len(own(endless[0])) == MAX_KEY_CHARS


@pytest.mark.parametrize("unit", ["a", ".", "word "])
def test_a_long_text_without_ends_is_cut_in_time_that_grows_with_its_length(unit: str) -> None:
    text = unit * (2**20 // len(unit))
    begun = time.process_time()
    pieces = Pieces(2**11)
    views = [*pieces.push(text), *pieces.end()]
    assert time.process_time() - begun < 0.4  # some hundredths; a second when all was searched
    assert "".join(view.text[view.start : view.end] for view in views) == text
