"""What a piece of feedback teaches, as rows to be learned from."""

from __future__ import annotations

from typing import Any

import pytest

from llmos.data.record import Conversation, Preference, to_record
from llmos.library.lessons import Feedback, lesson, verdict

ASKED = [{"role": "user", "content": "首都是哪里？", "tool_calls": [], "reasoning": ""}]


def given(**values: Any) -> Feedback:
    fields: dict[str, Any] = {
        "id": 7,
        "answer": "0a1",
        "model": "helper:3",
        "prompt": ASKED,
        "text": "上海",
        "finish_reason": "stop",
        "good": None,
        "rating": None,
        "correction": None,
        "comment": None,
        "actor": "k1",
        "owner": "alice",
        "at": 0.0,
    }
    return Feedback(**fields | values)


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ((True, None, None), True),
        ((None, 4, None), True),
        ((None, 3, None), None),
        ((None, 2, None), False),
        ((None, None, "better"), False),
        ((None, 3, "better"), False),
        ((True, 1, "better"), True),
        ((None, None, None), None),
    ],
)
def test_a_verdict_follows_from_what_was_said(said: Any, good: bool | None) -> None:
    assert verdict(*said) is good


def test_a_correction_is_what_is_learned_and_is_better_than_the_answer() -> None:
    said = given(correction="北京", good=False)
    row = lesson(said, "chat")
    assert row is not None
    talk = to_record("chat", row, "row")
    assert isinstance(talk, Conversation)
    assert [turn.content for turn in talk.messages] == ["首都是哪里？", "北京"]
    pair = lesson(said, "preferences")
    assert pair is not None
    record = to_record("preferences", pair, "row")
    assert isinstance(record, Preference)
    assert (record.chosen.content, record.rejected.content) == ("北京", "上海")


def test_a_good_answer_is_learned_as_it_is_if_it_ended_by_itself() -> None:
    row = lesson(given(good=True), "chat")
    assert row is not None and row["messages"][-1]["content"] == "上海"
    assert row["feedback"] == 7
    for nothing in (
        {"good": None},
        {"good": False},
        {"good": True, "finish_reason": "length"},
        {"good": True, "text": ""},
    ):
        assert lesson(given(**nothing), "chat") is None
    assert lesson(given(good=True), "preferences") is None, "there is nothing it is better than"


def test_earlier_answers_are_read_and_not_learned() -> None:
    turns = [*ASKED, {"role": "assistant", "content": "?"}, {"role": "user", "content": "So?"}]
    row = lesson(given(prompt=turns, correction="北京"), "chat")
    assert row is not None
    talk = to_record("chat", row, "row")
    assert isinstance(talk, Conversation) and talk.only_read == (1,)


@pytest.mark.parametrize(
    "prompt",
    [
        "a text",
        [1, 2],
        [],
        [*ASKED, {"role": "tool", "content": "5"}],
        [{"role": "assistant", "content": "", "tool_calls": [{"name": "f"}]}],
    ],
)
def test_what_is_no_conversation_of_words_is_left_out(prompt: Any) -> None:
    assert lesson(given(prompt=prompt, correction="x"), "chat") is None
    assert lesson(given(prompt=prompt, correction="x"), "preferences") is None


def test_a_text_is_learned_with_how_it_should_go_on() -> None:
    row = lesson(given(prompt="Once ", correction="upon a time"), "generate")
    assert row == {"text": "Once upon a time", "feedback": 7}
    assert lesson(given(correction="x"), "generate") is None


def test_an_answer_that_is_corrected_to_itself_is_no_pair() -> None:
    assert lesson(given(correction="上海"), "preferences") is None
    assert lesson(given(correction="x", finish_reason="tool_calls"), "preferences") is None


def test_it_is_on_a_model_by_name_or_by_version() -> None:
    one = given(model="base:1+pirate:2")
    assert [one.is_on(name) for name in ("pirate", "pirate:2", "base", "pirate:1", "pir")] == [
        *(True, True, True, False, False),
    ]
