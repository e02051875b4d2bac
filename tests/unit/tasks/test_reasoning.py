from __future__ import annotations

import pytest

from llmos.tasks.reasoning import FORMATS, ReasoningSplitter, reasoning_format

THINK, BRACKETS = FORMATS


def run(pieces: list[str], *, is_open: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(THINK, is_open=is_open)
    parts = [*map(splitter.push, pieces), splitter.flush()]
    return "".join(part[0] for part in parts), "".join(part[1] for part in parts)


CASES = [
    ("<think>\nhm, 你好\n</think>\n\nHi <b>", False, "hm, 你好", "Hi <b>"),
    ("\n<think>hm</think>Hi", False, "hm", "Hi"),
    ("hm</think>Hi", True, "hm", "Hi"),
    ("<think>\nhm</think>Hi", True, "hm", "Hi"),
    ("<think>\n\n</think>\n\nHi", False, "", "Hi"),
    ("Hi <think>no</think>", False, "", "Hi <think>no</think>"),
    ("  Hi", False, "", "  Hi"),
    ("hm < </thin", True, "hm < </thin", ""),
    ("<thin", False, "", "<thin"),
    ("a\n\nb </think> c", True, "a\n\nb", "c"),
    ("", True, "", ""),
]


@pytest.mark.parametrize(("text", "is_open", "reasoning", "answer"), CASES)
def test_reasoning_is_split_off_however_the_text_is_cut_up(
    text: str, is_open: bool, reasoning: str, answer: str
) -> None:
    for size in range(1, len(text) + 2):
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        assert run(pieces, is_open=is_open) == (reasoning, answer)


def test_reasoning_goes_out_before_it_ends() -> None:
    splitter = ReasoningSplitter(THINK, is_open=True)
    assert splitter.push("first ") == ("first", "")
    assert splitter.is_inside
    assert splitter.push("second") == (" second", "")
    assert splitter.push("</think>Hi") == ("", "Hi")
    assert not splitter.is_inside


def test_the_template_says_which_markers_a_model_has() -> None:
    assert reasoning_format("{{ m.content.split('</think>')[-1] }}") is THINK
    assert reasoning_format("[THINK]{{ m.content }}[/THINK]") is BRACKETS
    assert reasoning_format("{{ m.content }}") is None
    assert reasoning_format("{{ m.content }}", "think") is THINK
    assert reasoning_format("</think>", "none") is None


@pytest.mark.parametrize("opened", ["a:<think>", "a:<think>\n"])
def test_a_block_that_the_template_opened_can_be_closed_again(opened: str) -> None:
    assert THINK.is_open(opened)
    closed = opened + THINK.closing(opened)
    assert closed == "a:<think>\n\n</think>\n\n"
    assert not THINK.is_open(closed)
