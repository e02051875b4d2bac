"""Judged answers become what recipes read, as feedback itself does."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.data.pipeline.record import Record
from llmos.data.pipeline.registry import make_operator
from llmos.data.pipeline.steps import apply
from llmos.data.record import Conversation, Document, Preference, to_record

ASKED = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "你是谁？"},
]


def made(into: str, **fields: Any) -> dict[str, Any] | str:
    values: dict[str, Any] = {"prompt": ASKED, "text": "I am Starter.", **fields}
    done = apply([make_operator("judged_answers", {"into": into}, 0)], [Record("1", values)])
    assert not done.outcome.rejected
    return done.records[0].fields if done.records else done.outcome.dropped[0]["reason"]


def test_corrections_and_good_answers_are_conversations_of_which_the_last_is_learned() -> None:
    row = made("chat", correction="我是小林。")
    assert isinstance(row, dict)
    record = to_record("chat", row, "row")
    assert isinstance(record, Conversation)
    assert record.messages[-1].content == "我是小林。" and record.only_read == (1,)
    for said in ({"good": True}, {"rating": 4}, {"rating": 5.0}, {"good": True, "rating": 1}):
        row = made("chat", **said)
        assert isinstance(row, dict) and row["messages"][-1]["content"] == "I am Starter."


@pytest.mark.parametrize(
    "said", [{}, {"good": False}, {"rating": 3}, {"good": True, "finish_reason": "length"}]
)
def test_what_is_not_known_to_be_right_teaches_nothing(said: dict[str, Any]) -> None:
    assert str(made("chat", **said)).startswith("teaches nothing: ")
    assert str(made("preferences", **said)).startswith("teaches nothing: ")


def test_a_correction_beside_what_it_corrects_is_a_pair() -> None:
    row = made("preferences", correction="我是小林。", prompt="Who are you?")
    assert isinstance(row, dict)
    record = to_record("preferences", row, "row")
    assert isinstance(record, Preference)
    assert (record.chosen.content, record.rejected.content) == ("我是小林。", "I am Starter.")
    assert str(made("preferences", correction="I am Starter.")).startswith("teaches nothing")


def test_a_text_that_was_well_continued_is_one_text() -> None:
    row = made("generate", prompt="Once upon", text=" a time", good=True)
    assert isinstance(row, dict)
    assert to_record("generate", row, "row") == Document("Once upon a time")
