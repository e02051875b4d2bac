"""Large files in parts, each of which another process may read: together they are the file."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmos.data.datasets.readers import Source, format_of, parts_of, read
from llmos.data.formats import cells, lines
from llmos.data.formats.parquet import MAX_CUTS
from llmos.errors import CorruptBlobError

PIECES = [
    *("a word", "数据", "é", ",", ",", ",", "\t", "\n", "\n", "\n\n", "\r\n", "\r", " ", "  \n"),
    *('"', '"', '""', '"a,\n\nb"', ',"', '",', "\ufeff", "\u3000\n", "\u2028", "\x85", "'"),
    *('{"text": "one"}\n', '{"text": "二"}\n', '{"id": 3}\n', "{broken\n", "1,2\n", "a\tb\n"),
]


def told(source: Source) -> list[Any]:
    """What is read of a file; of what is bad where and why."""
    return [one if isinstance(one, dict) else (one.where, one.reason) for one in read(source)]


def in_parts(source: Source, num_bytes: int) -> list[Any]:
    parts = parts_of(source, num_bytes)
    assert [part.begin for part in parts[1:]] == [part.end for part in parts[:-1]]
    return [one for part in parts for one in told(replace(source, part=part))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "big5"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jsonl", {}),
        ("a.txt", {}),
        ("a.txt", {"unit": "line"}),
        ("a.csv", {}),
        ("a.csv", {"columns": ("one", "two")}),
        ("a.tsv", {}),
    ],
)
def test_the_parts_of_a_file_are_its_rows_whatever_it_holds(
    name: str, options: Any, encoding: str, tmp_path: Path
) -> None:
    draw, path, seen = random.Random(name + encoding), tmp_path / name, 0
    for _ in range(20):
        content = "one,two\n" if "columns" not in options else ""
        content += "".join(draw.choices(PIECES, k=60))
        broken = [bytes([draw.randrange(256)]) for _ in range(4)]
        data = content.encode(encoding, "ignore")
        for one in broken if draw.random() < 0.5 else ():
            at = draw.randrange(8, len(data))
            data = data[:at] + one + data[at:]
        path.write_bytes(data)
        source = Source(path, name, format_of(name), encoding=encoding, **options)
        for num_bytes in (1, 60):
            assert in_parts(source, num_bytes) == told(source), data
            seen += len(parts_of(source, num_bytes)) > 1
    assert seen > 20


def test_lines_that_are_too_long_are_so_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines, cells):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 50)
    text = 'n,text\n1,first\n2,"a\nb"\n' + f'3,"{"x" * 500}\n",y\n4,"c"\n' + "5,d\n" * 20
    for name in ("a.csv", "a.tsv", "a.txt"):
        path = tmp_path / name
        path.write_text(text)
        source = Source(path, name, format_of(name), encoding="utf-8", unit="line")
        for num_bytes in (1, 10):
            assert in_parts(source, num_bytes) == told(source)
            assert len(parts_of(source, num_bytes)) > 1


def test_a_row_that_ends_in_a_line_too_long_is_not_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (lines, cells):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 50)
    path = tmp_path / "a.csv"
    path.write_text('n,text\n1,first\n2,"a\n' + "x" * 500 + '\nb"\n' + "4,c\n" * 5)
    source = Source(path, "a.csv", "csv", encoding="utf-8")
    for num_bytes in (1, 4, 10, 18):
        assert in_parts(source, num_bytes) == told(source)
        assert len(told(source)) == 7


def test_a_header_behind_empty_lines_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\n\n\n\nn,t\n1,2\n3,4\n")
    source = Source(path, "a.csv", "csv", encoding="utf-8")
    for num_bytes in (1, 3, 6):
        assert in_parts(source, num_bytes) == told(source)
    assert told(source) == [
        {"id": "a.csv:6", "n": "1", "t": "2"},
        {"id": "a.csv:7", "n": "3", "t": "4"},
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv"])
def test_a_file_that_lost_its_end_since_it_was_cut_is_an_error(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b'{"n": 1}\n\n' * 10)
    source = Source(path, name, format_of(name), encoding="utf-8")
    parts = parts_of(source, 40)
    path.write_bytes(path.read_bytes()[:-15])
    assert len(parts) > 1 and told(replace(source, part=parts[0]))
    with pytest.raises(CorruptBlobError, match="ends before it did when it was cut"):
        told(replace(source, part=parts[-1]))


def test_the_parts_of_parquet_are_groups_of_rows_and_parts_of_large_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"n": range(3000), "text": [f"row {n} " * 5 for n in range(3000)]})
    source = Source(path, "a.parquet", "parquet")
    for rows in (100, 3000):
        pq.write_table(table, path, row_group_size=rows)
        parts = parts_of(source, 10_000)
        assert 3 < len(parts) <= (MAX_CUTS if rows == 3000 else 30)
        assert rows == 3000 or all(part.begin % rows == 0 for part in parts)
        assert in_parts(source, 10_000) == told(source) and len(told(source)) == 3000
    pq.write_table(table.slice(0, 0), path)
    assert parts_of(source, 10_000) == [] and told(source) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jsonl.gz", {}),
        ("a.jsonl", {"encoding": "utf-16"}),
        ("a.txt", {"unit": "document"}),
        ("a.md", {}),
        ("a.conll", {}),
    ],
)
def test_what_only_a_reader_from_the_beginning_understands_is_not_cut(
    name: str, options: Any, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"x\n\n" * 100)
    assert parts_of(Source(tmp_path / name, name, format_of(name), **options), 10) == []
