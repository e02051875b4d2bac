from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.tasks.stops import StopMatcher

letters = st.text(alphabet="ab", max_size=30)


def run(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    matcher = StopMatcher(stops)
    out = "".join(matcher.push(piece) for piece in pieces)
    return out + matcher.flush(), matcher.stopped


@pytest.mark.parametrize(
    ("stops", "pieces", "text", "stopped"),
    [
        (["END"], ["one E", "N", "D two"], "one ", True),
        (["END"], ["one EN", "ough"], "one ENough", False),
        (["\n\n", "."], ["a\n", "b. c"], "a\nb", True),
        (["。"], ["你好", "。再见"], "你好", True),
        ([], ["all", " of it"], "all of it", False),
        (["x"], ["x"], "", True),
    ],
)
def test_text_is_cut_exactly_before_the_stop(
    stops: list[str], pieces: list[str], text: str, stopped: bool
) -> None:
    assert run(stops, pieces) == (text, stopped)


def test_nothing_that_may_begin_a_stop_is_let_out() -> None:
    matcher = StopMatcher(["aab"])
    assert matcher.push("aaa") == "a"
    assert matcher.push("b") == ""
    assert matcher.stopped


@given(
    text=letters, stops=st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), cut=st.data()
)
def test_how_the_text_is_cut_up_does_not_matter(
    text: str, stops: list[str], cut: st.DataObject
) -> None:
    at = cut.draw(st.integers(0, len(text)))
    assert run(stops, [text[:at], text[at:]]) == run(stops, list(text))
