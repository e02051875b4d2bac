"""A file that is one JSON list is read object by object, whatever is in them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.data.formats.sample_files import bad, rows_of

from llmos.data.formats import json_list
from llmos.data.formats.json_list import elements
from llmos.data.formats.lines import Long
from llmos.errors import DataError

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text('ab"\\,[]{} 数\n', max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=8,
)


@given(
    rows=st.lists(VALUE, max_size=6),
    indent=st.none() | st.integers(0, 2),
    is_ascii=st.booleans(),
    size=st.integers(1, 7),
)
def test_elements_are_those_of_the_list_however_it_is_read(
    rows: list[Any], indent: int | None, is_ascii: bool, size: int
) -> None:
    written = json.dumps(rows, indent=indent, ensure_ascii=is_ascii)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(json_list, "PIECE_CHARS", size)
        found = list(elements(io.StringIO(written[1:])))
    assert all(isinstance(one, str) for one in found)
    assert [json.loads(str(one)) for one in found] == rows


def test_objects_become_rows_named_after_their_places(tmp_path: Path) -> None:
    content = ' \n[{"text": "a, [b]", "n": {"x": [1]}},\n\n{"id": 7, "text": "二"}]\n'
    assert rows_of(tmp_path / "a.json", content) == [
        {"id": "a.json:1", "text": "a, [b]", "n": {"x": [1]}},
        {"id": "7", "text": "二"},
    ]
    assert rows_of(tmp_path / "a.json", '{"text": "a"}\n{"text": "b"}\n')[1]["id"] == "a.json:2"
    for nothing in ("[]", "", " "):
        assert rows_of(tmp_path / "a.json", nothing) == []
    with pytest.raises(DataError, match="neither a JSON list"):
        rows_of(tmp_path / "a.json", '"text"')


def test_what_is_bad_is_told_and_the_rest_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_list, "MAX_RECORD_BYTES", 100)
    monkeypatch.setattr(json_list, "PIECE_CHARS", 40)
    long = json.dumps({"text": 'x",{' * 200})
    content = f'[{{"text": "a"}}, 3, {{broken}}, {long}, , {{"text": "b"}}, {{"text": "cut'
    found = rows_of(tmp_path / "a.json", content)
    assert [one["text"] for one in found if isinstance(one, dict)] == ["a", "b"]
    told = dict(bad(found))
    assert set(told) == {f"a.json:{number}" for number in (2, 3, 4, 5, 7)}
    assert told["a.json:2"] == "it is not a JSON object" and "longer" in told["a.json:4"]
    assert all("not JSON" in told[f"a.json:{number}"] for number in (3, 5, 7))


def test_little_of_what_is_too_long_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_list, "MAX_RECORD_BYTES", 1000)
    monkeypatch.setattr(json_list, "PIECE_CHARS", 100)

    class Endless(io.StringIO):
        reads = 0

        def read(self, size: int | None = -1) -> str:
            self.reads += 1
            return "x" * (size or 0) if self.reads < 10_000 else ""

    (only,) = elements(Endless())
    assert isinstance(only, Long) and only.excerpt == "x" * 200
