"""Conversations are the same in every form, and what recipes take is what training reads."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.data.chat_formats import Form, read_talk, write_talk
from llmos.data.operators.conversations import Conversations
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply
from llmos.data.record import Conversation, Preference, to_record
from llmos.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SAID = TEXT.filter(bool)
"""A form drops an empty system prompt."""
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "And?"},
]
ANSWER = {"role": "assistant", "content": "So."}
CALL = [
    {"from": "human", "value": "Weather in 上海?"},
    {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "上海"}}'},
    {"from": "observation", "value": '{"sky": "clear"}'},
    {"from": "gpt", "value": "It is clear."},
]


@st.composite
def conversations(draw: st.DrawFn) -> dict[str, Any]:
    turns = [{"role": "system", "content": draw(SAID)}] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(TEXT)})
        turns.append({"role": "assistant", "content": draw(TEXT)})
    if not draw(st.booleans()):
        return {"messages": turns}
    chosen, rejected = draw(TEXT), draw(TEXT)
    return {"messages": turns[:-1], "chosen": chosen, "rejected": rejected}


@given(row=conversations(), form=st.sampled_from(get_args(Form)))
def test_every_form_says_the_same(row: dict[str, Any], form: Form) -> None:
    talk = read_talk(row)
    if form == "dpo" and not talk.is_preference:
        with pytest.raises(DataError, match="no two answers"):
            write_talk(talk, form)
        return
    written = write_talk(talk, form)
    assert write_talk(read_talk(written), "messages") == row
    assert write_talk(read_talk(written), form) == written


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "Add", "input": "1 2", "output": "3"}, ["Add\n1 2", "3"]),
        ({"instruction": "Hi", "input": "", "output": "Ho", "system": "S"}, ["S", "Hi", "Ho"]),
        ({"instruction": "c", "output": "d", "history": [["a", "b"]]}, ["a", "b", "c", "d"]),
        ({"prompt": "Once", "completion": "upon"}, ["Once", "upon"]),
        ({"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
         ["a", "b"]),
        ({"conversations": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWER]},
         ["a", "So."]),
    ],
)  # fmt: skip
def test_each_form_is_recognised(row: dict[str, Any], messages: list[str]) -> None:
    talk = read_talk(row)
    assert [turn["content"] for turn in talk.messages] == messages
    record = to_record("chat", write_talk(talk, "messages"), "row 1")
    assert isinstance(record, Conversation)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TALK, "chosen": "So.", "rejected": "No."},
        {"messages": TALK, "chosen": ANSWER, "rejected": "No."},
        {"prompt": TALK, "chosen": [*TALK, ANSWER], "rejected": [ANSWER | {"content": "No."}]},
        {"chosen": [*TALK, ANSWER], "rejected": [*TALK, ANSWER | {"content": "No."}]},
        {"input": {"messages": TALK}, "preferred_output": [ANSWER],
         "non_preferred_output": [ANSWER | {"content": "No."}]},
        {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "Hello"},
                           {"from": "human", "value": "And?"}],
         "system": "Be kind.", "chosen": {"from": "gpt", "value": "So."},
         "rejected": {"from": "gpt", "value": "No."}},
        {"instruction": "And?", "input": "", "system": "Be kind.", "history": [["你好", "Hello"]],
         "chosen": "So.", "rejected": "No."},
    ],
)  # fmt: skip
def test_each_form_of_a_preference_is_recognised(row: dict[str, Any]) -> None:
    written = write_talk(read_talk(row), "messages")
    assert written == {"messages": TALK, "chosen": "So.", "rejected": "No."}
    record = to_record("preferences", written, "row 1")
    assert isinstance(record, Preference) and len(record.messages) == 4


def test_tool_calls_keep_their_arguments_both_ways() -> None:
    row = {"conversations": CALL, "tools": '[{"name": "weather"}]'}
    talk = read_talk(row)
    assert talk.calls_tools
    (called,) = talk.messages[1]["tool_calls"]
    assert json.loads(called["function"]["arguments"]) == {"city": "上海"}
    assert write_talk(talk, "sharegpt") == row
    with pytest.raises(DataError, match="no place for tool calls"):
        write_talk(talk, "alpaca")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "plain"}, "no conversation is recognised in text: it takes"),
        ({"messages": []}, "no list of turns"),
        ({"messages": [{"role": "bird", "content": "tweet"}]}, "a turn is from 'bird'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no text"),
        ({"instruction": "x", "output": 3}, "the answer must be text, not int"),
        ({"instruction": "x", "output": "y", "history": ["a"]}, "list of pairs"),
        ({"prompt": "x", "chosen": "y", "rejected": [TALK[1]]}, "no text of the assistant"),
        ({"messages": [*TALK, ANSWER], "chosen": "a", "rejected": "b"}, "after no question"),
        ({"chosen": [TALK[1], ANSWER], "rejected": [TALK[3], ANSWER]}, "different turns"),
    ],
)
def test_what_is_wrong_is_said(row: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_talk(row)


def test_the_operator_drops_what_teaches_nothing_and_keeps_other_fields() -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "a", "output": "b", "lang": "en"},
        {"messages": TALK[:2]},
        {"prompt": "a", "chosen": "b", "rejected": "b"},
        {"conversations": CALL},
        {"text": "plain"},
    ]
    records = [Record(str(number), dict(row)) for number, row in enumerate(rows)]
    done = apply([Conversations()], records)
    (kept,) = done.records
    assert set(kept.fields) == {"lang", "messages"}
    assert {row["id"]: row["reason"] for row in done.outcome.dropped} == {
        "1": "no answer", "2": "equal answers", "3": "tool calls",
    }  # fmt: skip
    assert [row["id"] for row in done.outcome.rejected] == ["4"]
    again = apply([Conversations()], [Record("0", dict(kept.fields))]).records
    assert again[0].fields == kept.fields
    kept_calls = apply([Conversations(tools="keep")], [Record("3", {"conversations": CALL})])
    assert [turn["role"] for turn in kept_calls.records[0].fields["messages"]] == [
        "user", "assistant", "tool", "assistant",
    ]  # fmt: skip
