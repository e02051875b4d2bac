from __future__ import annotations

from pathlib import Path

import pytest

from llmos.data.sources import FileSource, read_text, starter_rows, starter_text
from llmos.errors import DataError


def source(tmp_path: Path, name: str, text: str, **options: object) -> FileSource:
    (tmp_path / "blob").write_text(text, "utf-8")
    return FileSource(tmp_path / "blob", name, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "x.txt is empty"),
        (b" \n\t\n", "x.txt is empty"),
        (b"abc\0def", "x.txt is a binary file"),
        ("é".encode("latin-1"), r"x.txt is not UTF-8 text \(byte 0\)"),
    ],
)
def test_unusable_files_are_named_as_the_user_named_them(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "sha256-of-it"
    path.write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_text(path, "x.txt")


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data file x\.txt"):
        read_text(tmp_path / "none", "x.txt")
    with pytest.raises(DataError, match=r"x\.txt is a folder"):
        read_text(tmp_path, "x.txt")


def test_a_byte_order_mark_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfhello")
    assert read_text(path, "x.txt") == "hello"


def test_the_format_goes_by_suffix_unless_given(tmp_path: Path) -> None:
    kinds = {name: source(tmp_path, name, "x").kind() for name in ("a.jsonl", "a.TSV", "a.csv")}
    assert kinds == {"a.jsonl": "jsonl", "a.TSV": "tsv", "a.csv": "csv"}
    assert source(tmp_path, "a.log", "x").kind() == "text"
    assert source(tmp_path, "a.txt", "x", format="jsonl").kind() == "jsonl"


def test_jsonl_rows_carry_their_line_and_our_field_names(tmp_path: Path) -> None:
    text = '{"en": "a"}\n\n{"en": "b"}\n'
    rows = list(source(tmp_path, "a.jsonl", text, fields={"text": "en"}).rows())
    assert rows[1] == ("a.jsonl, line 3", {"en": "b", "text": "b"})


@pytest.mark.parametrize("line", ["{", "[1]", '"x"'])
def test_a_line_that_is_no_json_object_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl, line 2"):
        list(source(tmp_path, "a.jsonl", "{}\n" + line).rows())


def test_tsv_has_a_header_or_named_columns_and_keeps_quotes(tmp_path: Path) -> None:
    with_header = source(tmp_path, "a.tsv", 'source\ttarget\n"Hi"\tyo\n')
    assert list(with_header.rows()) == [("a.tsv, line 2", {"source": '"Hi"', "target": "yo"})]
    named = source(tmp_path, "a.tsv", "Hi\tyo\n", columns=("source", "target"))
    assert next(named.rows())[1] == {"source": "Hi", "target": "yo"}


def test_csv_unquotes(tmp_path: Path) -> None:
    rows = list(source(tmp_path, "a.csv", 'label,text\n1,"a, b"\n').rows())
    assert rows[0][1] == {"label": "1", "text": "a, b"}


def test_a_row_of_another_width_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.tsv, line 3 has 1 columns"):
        list(source(tmp_path, "a.tsv", "a\tb\n1\t2\n3\n").rows())


def test_the_row_limit_stops_reading(tmp_path: Path) -> None:
    assert len(list(source(tmp_path, "a.jsonl", "{}\n{}\nnot json").rows(2))) == 2


def test_starter_rows_and_texts_are_there_and_unknown_ones_say_what_is() -> None:
    (where, row), *_ = starter_rows("translation", "train", 0, 2)
    assert where == "starter:translation train, row 1" and {"source", "target"} <= set(row)
    assert len(starter_text("tales")) > 30_000
    with pytest.raises(DataError, match="no starter:nothing: there are tales, chat"):
        list(starter_rows("nothing", "train", 0, 1))
    with pytest.raises(DataError, match="has no split tset"):
        list(starter_rows("chat", "tset", 0, 1))
