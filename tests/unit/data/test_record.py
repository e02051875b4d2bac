from __future__ import annotations

from typing import Any

import pytest

from llmos.data.record import Annotated, Entity, Labelled, Pair, to_record
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
