"""Files of every format become rows; what is bad in one is said, and the rest is read."""

from __future__ import annotations

import datetime
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmos.data.datasets.encodings import check_encoding, detect
from llmos.data.datasets.readers import Bad, Source, format_of, read
from llmos.data.formats import lines as formats_lines
from llmos.data.formats import text as formats_text
from llmos.errors import DataError

ESSAY = "模型可以从文本中学习，并且用中文回答问题。数据需要清洗，也需要去重。" * 20


def rows_of(path: Path, content: bytes | str, **options: Any) -> list[Any]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read(Source(path, path.name, format_of(path.name), **options)))


def bad(found: list[Any]) -> list[tuple[str, str]]:
    return [(one.where, one.reason) for one in found if isinstance(one, Bad)]


def test_a_plain_text_is_cut_into_paragraphs_lines_or_not(tmp_path: Path) -> None:
    text = "One\r\nstill one\r\n\r\n\r\n二\n  \nThree\n"
    paragraphs = rows_of(tmp_path / "a.txt", text)
    assert paragraphs == [
        {"id": "a.txt:1", "text": "One\nstill one"},
        {"id": "a.txt:5", "text": "二"},
        {"id": "a.txt:7", "text": "Three"},
    ]
    lines = rows_of(tmp_path / "a.txt", text, unit="line")
    assert [row["text"] for row in lines] == ["One", "still one", "二", "Three"]
    (whole,) = rows_of(tmp_path / "a.txt", text, unit="document")
    assert whole == {"id": "a.txt", "text": "One\nstill one\n\n\n二\n  \nThree"}


def test_json_lines_with_bad_ones_are_read_around_them(tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "n": 1}',
        "",
        "{broken",
        "[1, 2]",
        '{"id": 7, "text": "b\u2028c"}',
        '{"id": [1], "text": "d"}',
        '{"n": 123456789012345678901234567890}',
        '{"meta": "not notes"}',
    ]
    found = rows_of(tmp_path / "a.jsonl", "\n".join(lines))
    good = [one for one in found if isinstance(one, dict)]
    assert good == [
        {"id": "a.jsonl:1", "text": "a", "n": 1},
        {"id": "7", "text": "b\u2028c"},
    ]
    told = dict(bad(found))
    assert "not JSON" in told["a.jsonl:3"]
    assert told["a.jsonl:4"] == "it is not a JSON object"
    assert "id" in told["a.jsonl:6"] and "meta" in told["a.jsonl:8"]
    assert set(told) == {f"a.jsonl:{n}" for n in (3, 4, 6, 7, 8)}


def test_ragged_cells_are_told_and_quotes_mean_something_in_csv_alone(tmp_path: Path) -> None:
    content = 'text,label\n"a, ""b""\nc",good\nonly one\nd,\n'
    found = rows_of(tmp_path / "a.csv", content)
    assert [one for one in found if isinstance(one, dict)] == [
        {"id": "a.csv:2", "text": 'a, "b"\nc', "label": "good"},
        {"id": "a.csv:5", "text": "d"},
    ]
    assert bad(found) == [("a.csv:4", "it has 1 cells where the header has 2")]
    found = rows_of(tmp_path / "b.tsv", '"x\t1\n', columns=("text", "label"))
    assert found == [{"id": "b.tsv:1", "text": '"x', "label": "1"}]
    with pytest.raises(DataError, match="one twice"):
        rows_of(tmp_path / "c.csv", "a,a\n1,2\n")


def test_parquet_values_become_json(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    columns = {
        "text": ["a", None],
        "day": [datetime.date(2026, 1, 2), None],
        "price": [decimal.Decimal("1.50"), None],
        "turns": [[{"role": "user"}], []],
        "raw": [None, b"\0"],
    }
    pq.write_table(pa.table(columns), path)
    found = list(read(Source(path, "a.parquet", "parquet")))
    assert found[0] == {
        "id": "a.parquet:1",
        "text": "a",
        "day": "2026-01-02",
        "price": "1.50",
        "turns": [{"role": "user"}],
    }
    assert isinstance(found[1], Bad) and "bytes" in found[1].reason
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="not a Parquet file"):
        list(read(Source(path, "a.parquet", "parquet")))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "big5"])
def test_the_encoding_of_a_chinese_text_is_found_out(encoding: str, tmp_path: Path) -> None:
    essay = ESSAY
    if encoding == "big5":
        essay = "我們可以從文字中學習，並且用中文回答問題。資料需要清理，也需要去除重複。" * 20
    (row,) = rows_of(tmp_path / "a.txt", essay.encode(encoding), unit="document")
    assert row["text"] == essay


def test_what_is_no_text_is_refused_by_what_it_is(tmp_path: Path) -> None:
    for content, said in (
        (b"%PDF-1.7 \0\1\2", "a PDF"),
        (b"PK\x03\x04rest", "a zip archive"),
        (bytes(range(256)) * 4, "a binary file"),
    ):
        with pytest.raises(DataError, match=f"a.txt is {said}"):
            rows_of(tmp_path / "a.txt", content)
    with pytest.raises(DataError, match=r"what it holds is not known"):
        format_of("a.weird")
    with pytest.raises(DataError, match="no encoding"):
        check_encoding("utf-9")
    with pytest.raises(DataError, match="no encoding of text"):
        check_encoding("base64")
    assert check_encoding("GB18030") == "gb18030"


def test_bytes_of_another_encoding_make_bad_rows_and_not_an_end(tmp_path: Path) -> None:
    content = b"good\n\xff\xfe\xfa bad\nagain"
    found = rows_of(tmp_path / "a.txt", content, unit="line", encoding="utf-8")
    assert [one["text"] for one in found if isinstance(one, dict)] == ["good", "again"]
    assert bad(found) == [("a.txt:2", "it is not valid text")]
    found = rows_of(tmp_path / "a.jsonl", b'{"text": "\xff"}\n{"text": "b"}', encoding="utf-8")
    assert isinstance(found[0], Bad) and found[1]["text"] == "b"


def test_a_line_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (formats_lines, formats_text):
        monkeypatch.setattr(module, "MAX_RECORD_BYTES", 50)
    long = "x" * 500
    lines = rows_of(tmp_path / "a.txt", f"a\n{long}\nb", unit="line")
    assert [one["text"] for one in lines if isinstance(one, dict)] == ["a", "b"]
    paragraphs = rows_of(tmp_path / "a.txt", f"a\n{long}\n\nb")
    assert [one["text"] for one in paragraphs if isinstance(one, dict)] == ["b"]
    found = rows_of(tmp_path / "a.jsonl", f'{{"text": "{long}"}}\n{{"text": "b"}}\n')
    assert [one["text"] for one in found if isinstance(one, dict)] == ["b"]
    assert all("longer than a row may be" in reason for _, reason in bad(found))


@pytest.mark.parametrize("encoding", ["gb18030", "big5"])
def test_an_encoding_is_found_whatever_character_the_sample_ends_in(encoding: str) -> None:
    essay = "我們可以從文字中學習，並且用中文回答問題。\n" * 2000
    for start in range(4):
        sample = (("x" * start) + essay).encode(encoding)[: 2**16]
        assert detect(sample, "a.txt") in (encoding, "cp950", "big5hkscs")


def test_utf_16_without_a_mark_is_known_by_its_zeros() -> None:
    assert detect("Plain English text".encode("utf-16-le"), "a.txt") == "utf-16-le"
    assert detect("Plain English text".encode("utf-16-be"), "a.txt") == "utf-16-be"


def test_a_quote_that_never_closes_is_told_of_every_line_that_it_takes(tmp_path: Path) -> None:
    found = rows_of(tmp_path / "a.csv", 'text,label\nfine,x\ngood,"oops\nb,y\nc,z\n')
    assert [row for row in found if isinstance(row, dict)] == [
        {"id": "a.csv:2", "text": "fine", "label": "x"}
    ]
    places = [place for place, _ in bad(found)]
    assert places == ["a.csv:3", "a.csv:4", "a.csv:5"]


def test_what_no_dataset_holds_is_a_bad_row(tmp_path: Path) -> None:
    deep = "[" * 300 + "]" * 300
    name = "n" * 300
    content = f'{{"a": {deep}}}\n{{"{name}": 1}}\n{{"a": 1}}\n'
    found = rows_of(tmp_path / "a.jsonl", content)
    reasons = [reason for _, reason in bad(found)]
    assert reasons == [
        "it is nested more than 64 deep",
        "the name of a field is longer than 200 characters",
    ]
    assert len(found) == 3
