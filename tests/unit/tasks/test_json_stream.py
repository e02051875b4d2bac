from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.tasks.json_stream import JsonObject

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
)
values = st.recursive(
    scalars | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=4), values, max_size=4)


def push_all(text: str, cut: int | None = None) -> tuple[JsonObject, int]:
    made, taken = JsonObject(), 0
    for start in range(0, len(text), cut or len(text)):
        taken += made.push(text[start : start + (cut or len(text))])
    return made, taken


@given(
    value=objects, indent=st.none() | st.just(1), ascii_only=st.booleans(), cut=st.integers(1, 9)
)
def test_an_object_is_followed_to_its_end_however_it_is_cut_up(
    value: dict[str, Any], indent: int | None, ascii_only: bool, cut: int
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    made, taken = push_all(text + " and so on", cut)
    assert made.is_complete
    assert taken == len(text)
    assert json.loads(made.text) == value
    for key, inner in value.items():
        assert made.has_whole(key)
        assert json.loads(made.value(key) or "") == inner
        assert made.string(key) == (inner if isinstance(inner, str) else None)


@given(value=objects, at=st.integers(0, 60), char=st.sampled_from('{}[]",:0e-tx\\ '))
def test_it_agrees_with_json_about_what_is_broken(
    value: dict[str, Any], at: int, char: str
) -> None:
    text = json.dumps(value)
    spoiled = text[: at % len(text)] + char + text[at % len(text) :]
    made, taken = push_all(spoiled)
    num_spaces = len(spoiled) - len(spoiled.lstrip())
    try:
        expected, end = json.JSONDecoder().raw_decode(spoiled, num_spaces)
    except ValueError:
        assert not made.is_complete
    else:
        is_object = isinstance(expected, dict)
        assert made.is_complete == is_object
        assert taken == end or not is_object


@pytest.mark.parametrize(
    "text", ['{"a": oops', '{"a" 1', "{'a'", '{"a": 1,}', '{"a": 01}', "[1]", '{"a": "\\x', '{"a"]']
)
def test_what_cannot_become_an_object_is_broken_at_once(text: str) -> None:
    made, taken = push_all(text)
    assert made.is_broken
    assert taken < len(text)


def test_a_value_can_be_read_before_it_is_whole() -> None:
    made, _ = push_all('{"name": "f", "arguments": {"a": "x')
    assert made.string("name") == "f"
    assert made.value("arguments") == '{"a": "x'
    assert not made.has_whole("arguments")
    assert made.value("other") is None


def test_raw_line_breaks_in_strings_are_escaped() -> None:
    made, _ = push_all('{"code": "a\n\tb"}')
    assert json.loads(made.text) == {"code": "a\n\tb"}
