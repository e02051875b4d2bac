"""What may be asked, what may be shown, what is a label, and what labels come to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.annotation.scheme import (
    MAX_SHOWN_BYTES,
    MAX_SPANS,
    MAX_TEXT_CHARS,
    checked_value,
    order_of,
    scheme_of,
    shown_of,
)
from llmos.data.annotation.settling import differ, labelled_row, settled
from llmos.data.record import Annotated, Conversation, Labelled, Preference, Rated, to_record
from llmos.errors import DataError, InvalidRequestError

CLASSES: dict[str, Any] = {
    "kind": "classification", "fields": ["text"], "labels": ["a", "b", "c"]
}  # fmt: skip
SPANS: dict[str, Any] = {"kind": "spans", "fields": ["text"], "labels": ["NAME", "地点"]}
PAIRS: dict[str, Any] = {"kind": "pairs", "fields": ["one", "two"], "prompt": "asked"}
RATING: dict[str, Any] = {"kind": "rating", "fields": ["text"]}
TEXT: dict[str, Any] = {"kind": "text", "fields": ["draft"], "prompt": "asked"}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "drawing", "fields": ["text"]}, "Invalid enum value 'drawing'"),
        (CLASSES | {"fields": []}, "fields: name each field"),
        (CLASSES | {"fields": ["text", "text"]}, "fields: name each field"),
        (CLASSES | {"labels": ["a"]}, "labels: classification needs 2 different labels"),
        (CLASSES | {"labels": ["a", " b"]}, "without space around it"),
        (SPANS | {"labels": []}, "labels: spans needs 1 different labels"),
        (SPANS | {"several": True}, "several: only classification"),
        (RATING | {"labels": ["a", "b"]}, "labels: rating has no labels"),
        (RATING | {"least": 5, "most": 5}, "most: a scale has 2 to 101 numbers"),
        (RATING | {"least": 0, "most": 1000}, "most: a scale has 2 to 101 numbers"),
        (PAIRS | {"fields": ["one"]}, "fields: pairs need two fields"),
        (PAIRS | {"prompt": ""}, "and the `prompt` field"),
        (PAIRS | {"into": "x"}, "into: pairs become"),
        (CLASSES | {"prompt": "asked"}, "prompt: classification makes no answers"),
        (CLASSES | {"into": "id"}, "into: id is no field for labels"),
        (CLASSES | {"wrong": 1}, "unknown field `wrong`"),
    ],
)
def test_a_scheme_that_makes_no_sense_says_why(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        scheme_of(values)


@pytest.mark.parametrize(
    ("scheme", "row", "said"),
    [
        (CLASSES, {"id": "1"}, "no text"),
        (CLASSES, {"id": "1", "text": ""}, "no text"),
        (SPANS, {"id": "1", "text": 3}, "text is no text"),
        (PAIRS, {"id": "1", "one": "a", "two": "a", "asked": "q"}, "two answers are the same"),
        (PAIRS, {"id": "1", "one": "a", "two": 2, "asked": "q"}, "two is no text"),
        (
            PAIRS,
            {"id": "1", "one": "a", "two": "b", "asked": [{"role": "assistant", "content": "x"}]},
            "neither a text nor messages",
        ),
        (CLASSES, {"id": "1", "text": "x" * MAX_SHOWN_BYTES}, "too large to show: "),
    ],
)
def test_a_row_that_cannot_be_shown_says_why(
    scheme: dict[str, Any], row: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        shown_of(scheme_of(scheme), row)


TEXTS = {"text": "Alice 住在北京。", "draft": "x", "one": "1", "two": "2", "asked": "q"}


@pytest.mark.parametrize(
    ("scheme", "value", "said"),
    [
        (CLASSES, "d", "'d' is none of the labels: a, b, c"),
        (CLASSES, ["a"], "is none of the labels"),
        (CLASSES, None, "is none of the labels"),
        (CLASSES | {"several": True}, "a", "give a list of labels"),
        (CLASSES | {"several": True}, ["a", "d"], "is none of the labels"),
        (CLASSES | {"several": True}, ["a"] * 4, "give a list of labels"),
        (SPANS, "NAME", "give a list of at most"),
        (SPANS, [{"start": 0, "end": 5}], "a span is"),
        (SPANS, [{"start": 0, "end": 5, "label": "X"}], "none of the labels: NAME, 地点"),
        (SPANS, [{"start": 0, "end": 12, "label": "NAME"}], "within the text's 11 characters"),
        (SPANS, [{"start": 5, "end": 5, "label": "NAME"}], "within the text's 11 characters"),
        (SPANS, [{"start": True, "end": 5, "label": "NAME"}], "within the text"),
        (SPANS, [{"start": n, "end": 5, "label": "NAME"} for n in (0, 4)], "at 0 and 4 overlap"),
        (SPANS, [{}] * (MAX_SPANS + 1), "at most 1000 spans"),
        (PAIRS, "third", "first, second, tie"),
        (PAIRS | {"ties": False}, "tie", "none of the labels: first, second"),
        (RATING, 6, "a whole number from 1 to 5"),
        (RATING, 3.0, "a whole number from 1 to 5"),
        (RATING, True, "a whole number from 1 to 5"),
        (TEXT, " ", "write a text"),
        (TEXT, 5, "write a text"),
        (TEXT, "x" * (MAX_TEXT_CHARS + 1), "at most 100000 characters"),
    ],
)
def test_what_is_no_label_says_what_is(scheme: dict[str, Any], value: Any, said: str) -> None:
    with pytest.raises(InvalidRequestError, match=said):
        checked_value(scheme_of(scheme), TEXTS, value)


def test_labels_are_kept_in_one_form() -> None:
    several = scheme_of(CLASSES | {"several": True})
    assert checked_value(several, TEXTS, ["c", "a", "c"]) == ["a", "c"]
    assert checked_value(several, TEXTS, []) == []
    spans = [{"start": 8, "end": 10, "label": "地点"}, {"start": 0, "end": 5, "label": "NAME"}]
    assert checked_value(scheme_of(SPANS), TEXTS, spans) == spans[::-1]


@pytest.mark.parametrize(
    ("scheme", "values", "came"),
    [
        (CLASSES, ["a", "b", "a"], "a"),
        (CLASSES, ["a", "b"], None),
        (CLASSES, ["a"], "a"),
        (CLASSES, [], None),
        (PAIRS, ["tie", "tie", "first"], "tie"),
        (TEXT, ["x", "y"], None),
        (RATING, [1, 2, 5], 8 / 3),
        (CLASSES | {"several": True}, [["a"], ["a", "b"], ["b", "c"]], ["a", "b"]),
        (CLASSES | {"several": True}, [["a"], ["b"]], []),
    ],
)
def test_what_labels_come_to(scheme: dict[str, Any], values: list[Any], came: Any) -> None:
    assert settled(scheme_of(scheme), values) == came


def test_labels_differ_where_two_are_not_the_same() -> None:
    assert differ([["a"], ["b"]]) and not differ([["a"], ["a"]]) and not differ([])


POINTS = st.lists(st.integers(0, 11), min_size=2, max_size=8, unique=True).map(sorted)


@st.composite
def marked(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Spans that do not overlap."""
    points = draw(POINTS)
    ends = zip(points[::2], points[1::2], strict=False)
    label = st.sampled_from(["NAME", "地点"])
    return [{"start": start, "end": end, "label": draw(label)} for start, end in ends]


@given(values=st.lists(marked(), min_size=1, max_size=5))
@settings(max_examples=200, deadline=None)
def test_spans_that_most_marked_are_spans_and_lie_apart(values: list[Any]) -> None:
    scheme = scheme_of(SPANS)
    came = settled(scheme, values)
    assert checked_value(scheme, TEXTS, came) == came
    if len(values) == 1:
        assert came == values[0]


def test_rows_are_in_the_form_that_recipes_read() -> None:
    note = {"task": 1}
    row: dict[str, Any] = {"id": "r1", "text": "Alice 住在北京。", "meta": {"from": "x"}}

    def made(values: dict[str, Any], value: Any, **fields: Any) -> dict[str, Any]:
        found = labelled_row(scheme_of(values), row | fields, value, note)
        assert found is not None and found["id"] == "r1"
        assert found["meta"] == {"from": "x", "annotation": note}
        return found

    assert to_record("classify", made(CLASSES, "a"), "r") == Labelled(row["text"], "a")
    several = made(CLASSES | {"several": True, "into": "topics"}, ["a", "b"])
    assert several["topics"] == ["a", "b"]
    assert to_record("rate", made(RATING, 3), "r") == Rated(row["text"], 3.0)
    entities = to_record("entities", made(SPANS, [{"start": 0, "end": 5, "label": "NAME"}]), "r")
    assert isinstance(entities, Annotated) and entities.entities[0].end == 5
    asked = [{"role": "user", "content": "q"}]
    pair = made(PAIRS, "second", one="1", two="2", asked=asked)
    record = to_record("preferences", pair, "r")
    assert isinstance(record, Preference)
    assert (record.chosen.content, record.rejected.content) == ("2", "1")
    assert labelled_row(scheme_of(PAIRS), {**row, **TEXTS}, "tie", note) is None
    earlier = [asked[0], {"role": "assistant", "content": "x"}, asked[0]]
    talk = to_record("chat", made(TEXT, "better", draft="d", asked=earlier), "r")
    assert isinstance(talk, Conversation) and talk.only_read == (1,)
    assert talk.messages[-1].content == "better"
    written = made({"kind": "text", "fields": ["text"]}, "Alice lives in Beijing.")
    assert written["target"] == "Alice lives in Beijing."


def test_each_answer_of_a_pair_is_shown_first_about_as_often_and_always_the_same() -> None:
    fields = ["one", "two"]
    for task in (1, 2):
        orders = [order_of("pairs", fields, task, place) for place in range(2000)]
        assert 900 < orders.count(["one", "two"]) < 1100
        assert orders.count(["one", "two"]) + orders.count(["two", "one"]) == 2000
        assert orders == [order_of("pairs", fields, task, place) for place in range(2000)]
    assert [order_of("pairs", fields, 1, place) for place in range(2000)] != orders
    kinds = ("classification", "spans", "rating", "text")
    assert all(order_of(kind, fields, 1, place) == fields for kind in kinds for place in range(9))
