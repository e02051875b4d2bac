from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.data.sentences import clauses, sentences


def split(text: str) -> list[str]:
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", ["Hello, world!"]),
        ("One. Two? Three!", ["One.", "Two?", "Three!"]),
        ("Dr. Smith met Mr. Lee. They ate.", ["Dr. Smith met Mr. Lee.", "They ate."]),
        ("It costs 3.50 dollars. Cheap.", ["It costs 3.50 dollars.", "Cheap."]),
        ("I live in the U.S. and work.", ["I live in the U.S. and work."]),
        ("J. R. R. Tolkien wrote it.", ["J. R. R. Tolkien wrote it."]),
        ('He said "Go!" Then he left.', ['He said "Go!"', "Then he left."]),
        ("Wait... what?", ["Wait...", "what?"]),
        ("你好，世界！今天天气很好。走吧", ["你好，世界！", "今天天气很好。", "走吧"]),
        ("他说：“走吧！”然后走了。", ["他说：“走吧！”", "然后走了。"]),
        ("真的吗？！是的。", ["真的吗？！", "是的。"]),
        ("one\ntwo\n\n  three  ", ["one", "two", "three"]),
        ("Hello.你好。", ["Hello.", "你好。"]),
        ("", []),
        (" \n ", []),
        ("...", ["..."]),
    ],
)
def test_sentences_end_where_a_reader_says(text: str, expected: list[str]) -> None:
    assert split(text) == expected


@given(st.text(alphabet='aA .!?\n"。！”，J', max_size=60))
def test_only_white_space_is_left_out_and_order_is_kept(text: str) -> None:
    spans = sentences(text)
    last_end = 0
    for start, end in spans:
        assert start >= last_end
        assert text[start:end] == text[start:end].strip() != ""
        assert text[last_end:start].strip() == ""
        last_end = end
    assert text[last_end:].strip() == ""


def test_clauses_cut_at_commas() -> None:
    text = "If it rains, we stay；否则，我们走"
    assert [text[a:b] for a, b in clauses(text)] == [
        "If it rains,",
        "we stay；",
        "否则，",
        "我们走",
    ]


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "text", ["!" * 200_000 + "x", '."' * 100_000, " " * 200_000 + "-", ", " * 100_000]
)
def test_hostile_texts_come_to_an_end(text: str) -> None:
    sentences(text)
    clauses(text)
