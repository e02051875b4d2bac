from __future__ import annotations

from typing import Any

import pytest

from llmos.data.record import Annotated, Conversation, Entity, Labelled, Pair, to_record
from llmos.errors import DataError


def test_rows_become_the_records_of_their_task() -> None:
    pair = {"source": "a", "target": "b", "source_lang": "en", "target_lang": "zh"}
    assert to_record("translate", pair, "w") == Pair("a", "b", "en", "zh")
    assert to_record("classify", {"text": "a", "label": 1}, "w") == Labelled("a", "1")
    spans = [{"start": 2, "end": 3, "label": "Y"}, {"start": 0, "end": 1, "label": "X"}]
    expected = Annotated("abc", (Entity(0, 1, "X"), Entity(2, 3, "Y")))
    assert to_record("entities", {"text": "abc", "entities": spans}, "w") == expected


@pytest.mark.parametrize(
    ("task", "row", "says"),
    [
        ("generate", {"body": "x"}, "w has no 'text', only body.*data.fields.text"),
        ("translate", {"source": "x"}, "w has no 'target'"),
        ("classify", {"text": ["x"], "label": "y"}, "'text' must be text, not list"),
        ("chat", {"messages": []}, "no list of 'messages'"),
        ("chat", {"messages": [{"role": "robot", "content": "x"}]}, "needs a role"),
        ("chat", {"messages": [{"role": "user", "content": "x"}]}, "no assistant message"),
        ("entities", {"text": "abc"}, "no list of 'entities'"),
        ("entities", {"text": "a", "entities": [{"start": 0, "end": 2, "label": "X"}]}, "outside"),
        ("entities", {"text": "ab", "entities": [{"start": 0, "end": 1}]}, "must be"),
        ("entities", {"text": "ab", "entities": ["x"]}, "must be"),
        (
            "entities",
            {
                "text": "abc",
                "entities": [
                    {"start": 0, "end": 2, "label": "X"},
                    {"start": 1, "end": 3, "label": "X"},
                ],
            },
            "overlaps",
        ),
    ],
)
def test_a_bad_row_says_where_and_what(task: str, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        to_record(task, row, "w")


def test_openai_s_forms_of_conversations_and_preferences_are_read() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "你"}]
    turns = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "x", "weight": 0},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": "y", "weight": 1},
    ]
    found = to_record("chat", {"messages": turns}, "w")
    assert isinstance(found, Conversation)
    assert [message.role for message in found.messages][:2] == ["system", "user"]
    assert found.messages[1].content == "a你" and found.only_read == (2,)
    row = {
        "input": {"messages": [{"role": "user", "content": "a"}], "tools": []},
        "preferred_output": [{"role": "assistant", "content": "b"}],
        "non_preferred_output": [{"role": "assistant", "content": "c"}],
    }
    ours = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert to_record("preferences", row, "w") == to_record("preferences", ours, "w")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": "a"}, "'input' must be"),
        ({"input": {"messages": [], "tools": [{}]}}, "without tools"),
        ({"input": {}}, "no list of 'messages'"),
        ({"preferred_output": []}, "'preferred_output' must be a list of one"),
        ({"non_preferred_output": [{"role": "user", "content": "c"}]}, "'rejected' must be"),
    ],
)
def test_a_preference_in_openai_s_form_that_is_none_is_refused(
    change: dict[str, Any], says: str
) -> None:
    row = {
        "input": {"messages": [{"role": "user", "content": "a"}]},
        "preferred_output": [{"role": "assistant", "content": "b"}],
        "non_preferred_output": [{"role": "assistant", "content": "c"}],
    }
    with pytest.raises(DataError, match=says):
        to_record("preferences", row | change, "w")


def test_weights_are_for_answers_and_yes_or_no() -> None:
    answer = {"role": "assistant", "content": "x"}
    for turn in (answer | {"weight": 0.5}, {"role": "user", "content": "x", "weight": 0}):
        with pytest.raises(DataError, match="a 'weight' is 0 or 1"):
            to_record("chat", {"messages": [turn, answer]}, "w")
