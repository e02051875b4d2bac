"""Rows that are given to be learned."""

from __future__ import annotations

import pytest

from llmos.apps.teaching import lessons_of
from llmos.errors import DataError

USER, ASSISTANT = {"role": "user", "content": "你好"}, {"role": "assistant", "content": "你好！"}
EMPTY, TOOL = {"role": "assistant", "content": ""}, {"role": "tool", "content": "sunny"}


def test_the_last_answer_of_a_conversation_is_the_target() -> None:
    (one,) = lessons_of([{"messages": [USER, ASSISTANT, USER, ASSISTANT, USER]}])
    assert [turn["role"] for turn in one.prompt] == ["user", "assistant", "user"]
    assert (one.target, one.worse) == ("你好！", "")


def test_an_answer_that_is_only_read_is_no_target() -> None:
    read = {"role": "assistant", "content": "no", "weight": 0}
    (one,) = lessons_of([{"messages": [USER, ASSISTANT, USER, read]}])
    assert (one.target, len(one.prompt)) == ("你好！", 1)


def test_of_two_answers_one_is_worse_in_either_form() -> None:
    ours = {"prompt": "hi", "chosen": "hello", "rejected": "no"}
    openais = {
        "input": {"messages": [{"role": "user", "content": "hi"}]},
        "preferred_output": [{"role": "assistant", "content": "hello"}],
        "non_preferred_output": [{"role": "assistant", "content": "no"}],
    }
    for one in lessons_of([ours, openais]):
        assert (one.prompt[0]["content"], one.target, one.worse) == ("hi", "hello", "no")


def test_the_same_row_is_known_again_whatever_the_order_of_its_keys() -> None:
    one, two, other = lessons_of(
        [{"text": "a", "note": 1}, {"note": 1, "text": "a"}, {"text": "b", "note": 1}]
    )
    assert one.digest == two.digest != other.digest


@pytest.mark.parametrize(
    "row",
    [
        *({}, {"messages": [USER]}, {"prompt": "x", "chosen": "a"}, {"messages": "x"}),
        *({"text": []}, {"text": ""}, {"messages": [ASSISTANT]}, {"messages": [USER, EMPTY]}),
        {"messages": [USER, TOOL, ASSISTANT]},
        {"prompt": "x", "chosen": "", "rejected": "no"},
    ],
)
def test_a_row_that_teaches_nothing_is_named(row: dict[str, object]) -> None:
    with pytest.raises(DataError, match="row 2"):
        lessons_of([{"text": "fine"}, row])
