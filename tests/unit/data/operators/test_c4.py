"""C4's rules keep of English the lines that datatrove's filter keeps."""

from __future__ import annotations

import random

import pytest
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter
from datatrove.pipeline.filters.c4_filters import CITATION_REGEX

from llmos.data.operators.c4 import C4Lines
from llmos.data.pipeline.steps import tried

WORDS = [
    *("the", "river", "JavaScript", "cookies", "use", "of", "terms", "Privacy", "policy", "3.5"),
    *("house", "ran", "Mr.", "it's", "(so)", "[1]", "[23]", "[]", "[edit]", "[x]", "a" * 12),
    *("", "", " ", "\t", "[citation needed]", "a", "b", "c", "d", "e", "f"),
]
MARKS = (".", ".", ".", "!", "?", '"', "'", "...", "", ",", ".[4]", ". [edit]", ":", ".  ")
BREAKS = ("\n", "\n", "\n\n", "\r\n", "\u2028", "\x0b")


def document(seed: int) -> str:
    """Return lines of a few words: too short, of words too long, without an end, with notes."""
    draw = random.Random(seed)
    words = draw.choices(WORDS, k=8)

    def line() -> str:
        said = " ".join(draw.choices(words, k=draw.randint(0, 9)))
        return f"{draw.choice(('', '', '  '))}{said}{draw.choice(MARKS)}"

    return draw.choice(BREAKS).join(line() for _ in range(draw.randint(0, 8)))


@pytest.mark.parametrize("need_end", [True, False])
def test_of_english_the_lines_are_kept_that_datatrove_keeps(need_end: bool) -> None:
    """Notes are taken out before: datatrove counts them as words, and ends that stand before them
    as none. Sentences are counted by other rules, and are left out."""
    ours = C4Lines(min_sentences=0, max_word_length=10, need_end=need_end)
    theirs = C4QualityFilter(
        min_num_sentences=-1, max_word_length=10, filter_no_terminal_punct=need_end
    )
    kept = 0
    for seed in range(400):
        text = document(seed)
        told = Document(text=CITATION_REGEX.sub("", text), id=str(seed))
        assert theirs.filter(told) is True
        assert tried(ours, text) == [told.text], (seed, text)
        kept += bool(told.text)
    assert 100 <= kept <= 390


@pytest.mark.parametrize(
    "text", ["This is lorem IPSUM text.\nIt has ended here.", "It is { here.\nIt has ended here."]
)
def test_a_page_that_datatrove_drops_goes(text: str) -> None:
    theirs = C4QualityFilter(min_num_sentences=-1)
    assert theirs.filter(Document(text=text, id="1")) is not True
    assert tried(C4Lines(min_sentences=0), text)[0].startswith("dropped: ")
