"""Rows as Parquet: what goes in comes out, whatever the types; the same rows are the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmos.errors import DataError
from llmos.storage import parquet
from llmos.storage.parquet import (
    check_packages,
    merged,
    read_rows,
    schema_of,
    write_rows,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
INTEGER = st.integers(-(2**53), 2**53)  # beyond, whole numbers among others are rounded
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | INTEGER | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["text", "label", "名字", "a b"])


@given(
    rows=st.lists(
        st.dictionaries(NAMES, PLAIN, max_size=4).map(lambda row: {"id": "1", **row}), max_size=8
    )
)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_rows_come_back_as_they_were(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    schema = write_rows(path, rows)
    expected = [{name: one for name, one in row.items() if one is not None} for row in rows]
    assert list(read_rows(path)) == expected
    assert schema == schema_of(rows)


def test_the_same_rows_are_the_same_bytes_and_others_can_read_them(tmp_path: Path) -> None:
    rows = [{"id": "1", "text": "你好", "n": 1, "spans": [{"a": 1}]}, {"id": "2", "n": 2}]
    for name in ("a", "b"):
        write_rows(tmp_path / name, rows)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    table = pq.read_table(tmp_path / "a")
    assert table.column("text").to_pylist() == ["你好", None]
    assert table.column("spans").to_pylist() == ['[{"a": 1}]', None]
    assert str(table.schema.field("n").type) == "int64"


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], "integer"),
        ([1, 2.5], "number"),
        ([True, False], "boolean"),
        ([True, 1], "json"),
        (["a", 1], "json"),
        ([2**70], "json"),
        ([[1]], "json"),
        (["a", None], "string"),
    ],
)
def test_a_column_has_the_narrowest_type_that_holds_its_values(
    values: list[Any], kind: str
) -> None:
    rows = [{"x": value} for value in values]
    assert schema_of(rows) == {"x": kind}
    assert merged(schema_of([row]) for row in rows) == {"x": kind}


def test_a_missing_package_is_told_with_what_to_install() -> None:
    with pytest.raises(DataError, match=r"pip install 'llmos\[data\]'"):
        check_packages({"surely_not_there": "surely-not-there"})
    with pytest.raises(DataError, match=r"pip install 'llmos\[pii\]'"):
        check_packages({"surely_not_there": "presidio-analyzer"})


def test_what_is_no_parquet_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "odd.parquet").write_bytes(b"not at all")
    with pytest.raises(DataError, match=r"odd.parquet is not a Parquet file"):
        list(read_rows(tmp_path / "odd.parquet"))


def test_files_of_the_same_columns_become_one(tmp_path: Path) -> None:
    schema = {"id": "string", "n": "integer"}
    for name, numbers in (("a", [1, 2]), ("b", []), ("c", [3])):
        write_rows(tmp_path / name, [{"id": name, "n": n} for n in numbers], schema)
    sources = [tmp_path / name for name in ("a", "b", "c")]
    assert parquet.append_all(tmp_path / "all", sources, schema) == 3
    assert [row["n"] for row in read_rows(tmp_path / "all")] == [1, 2, 3]
