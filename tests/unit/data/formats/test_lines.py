"""Lines of text: packed or not, in whatever encoding, however long; Markdown; odd Parquet."""

from __future__ import annotations

import datetime
import gzip
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.unit.data.formats.sample_files import bad, rows_of

from llmos.data.datasets.readers import FORMATS, SUFFIXES, Source, format_of
from llmos.data.formats import cells, lines, packed, text
from llmos.errors import DataError
from llmos.sdk import datasets as sdk
from llmos.sdk.dataset_wire import FileFormat


def test_the_table_of_formats_is_the_same_to_clients() -> None:
    from typing import get_args

    assert set(sdk.SUFFIXES) == set(SUFFIXES)
    assert get_args(FileFormat) == tuple(FORMATS)


def test_every_suffix_is_documented() -> None:
    page = (Path(__file__).parents[4] / "docs" / "data.md").read_text("utf-8")
    named = {suffix for form in FORMATS.values() for suffix in form.suffixes}
    assert sorted(suffix for suffix in named if f"`{suffix}`" not in page) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/b.TXT", "text"),
        ("v1.2.jsonl.gz", "jsonl"),
        ("a.tar.gz", "tar"),
        ("a.tgz", "tar"),
        ("a.warc.gz", "warc"),
        ("report.2024.html", "html"),
    ],
)
def test_a_suffix_tells_the_format(name: str, expected: str) -> None:
    assert format_of(name) == expected
    for unknown in ("a.gz", "a.pdf.gz", "a", ".txt/a"):
        with pytest.raises(DataError, match="what it holds is not known"):
            format_of(unknown)


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_lines_may_be_packed(encoding: str, tmp_path: Path) -> None:
    content = "text,n\n" + "".join(f"数据需要清洗，也需要去重。,{n}\n" for n in range(3000))
    found = rows_of(tmp_path / "a.csv.gz", gzip.compress(content.encode(encoding)))
    assert len(found) == 3000
    assert found[-1] == {"id": "a.csv.gz:3001", "text": "数据需要清洗，也需要去重。", "n": "2999"}


def test_what_is_packed_and_broken_or_a_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gzip.compress(b'{"a": 1}\n' * 10_000)
    for content in (whole[:-20], b"no gzip", whole[:30] + b"\0\0\0" + whole[33:]):
        with pytest.raises(DataError, match=r"a.jsonl.gz is no gzip that can be read"):
            rows_of(tmp_path / "a.jsonl.gz", content)
    monkeypatch.setattr(packed, "FREE_BYTES", 2**20)
    with pytest.raises(DataError, match="200 times its size, as a zip bomb does"):
        rows_of(tmp_path / "a.txt.gz", gzip.compress(b"a line\n" * 2**21))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "gb18030", "utf-8"])
def test_bytes_that_are_no_text_make_their_row_bad_in_every_encoding(
    encoding: str, tmp_path: Path
) -> None:
    wrong = {"utf-16-le": b"\x00\xd8", "utf-16-be": b"\xd8\x00", "utf-32-le": b"\0\xd8\0\0"}
    line = "数据 data\n".encode(encoding)
    broken = "x".encode(encoding) + wrong.get(encoding, b"\xff") + "\n".encode(encoding)
    found = rows_of(tmp_path / "a.txt", line + broken + line, encoding=encoding, unit="line")
    assert [row["text"] for row in found if isinstance(row, dict)] == ["数据 data"] * 2
    assert bad(found) == [("a.txt:2", "it is not valid text")]
    cut = rows_of(tmp_path / "a.txt", line + line[:-1], encoding=encoding, unit="line")
    is_whole = len("\n".encode(encoding)) == 1
    assert len(bad(cut)) == (0 if is_whole else 1) and isinstance(cut[0], dict)


@pytest.mark.parametrize("broken", [b"\xff\xfe\xc3(", b"\x80", b"\xe4\xb8"])
def test_a_few_broken_bytes_do_not_make_utf_8_another_encoding(
    broken: bytes, tmp_path: Path
) -> None:
    line = "数据需要清洗，也需要去重。\n".encode()
    found = rows_of(tmp_path / "a.txt", line + broken + b"\n" + line * 3, unit="line")
    assert [row["text"] for row in found if isinstance(row, dict)] == [line.decode().strip()] * 4
    assert bad(found) == [("a.txt:2", "it is not valid text")]
    for encoding in ("gb18030", "big5"):
        other = rows_of(tmp_path / "b.txt", ("數據需要清洗，也需要去重。" * 20).encode(encoding))
        assert other[0]["text"] == "數據需要清洗，也需要去重。" * 20


@pytest.mark.parametrize(
    "long",
    ["x" * 500, f'"{"x" * 500}"', f'"{"x" * 500}', f'x" y "{"x" * 500}', f'"a""{"x" * 500}"'],
)
def test_a_line_of_cells_that_is_too_long_is_passed_over(
    long: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 50)
    behind = '",2\nlast,3\n' if long.count('"') % 2 else "\nlast,3\n"
    found = rows_of(tmp_path / "a.csv", f"text,n\nfirst,1\n{long}{behind}", unit="line")
    good = [one for one in found if isinstance(one, dict)]
    assert [row["text"] for row in good] == ["first", "last"]
    assert "longer than a row may be" in dict(bad(found))["a.csv:3"]
    with pytest.raises(DataError, match=r"a.csv:1: the header is longer"):
        rows_of(tmp_path / "a.csv", f"{long}\na,b\n")


def test_a_cell_that_goes_on_over_a_line_that_is_too_long_is_one_bad_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_RECORD_BYTES", 50)
    content = f'text,n\n"begun\n{"x" * 500}\nended",1\nlast,2\n'
    found = rows_of(tmp_path / "a.csv", content)
    assert [one.get("text") for one in found if isinstance(one, dict)] == ["last"]
    assert [where for where, _ in bad(found)] == ["a.csv:2"]


def test_a_line_of_a_hundred_megabytes_takes_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as out:
        out.write(b'{"text": "first"}\n{"text": "')
        for _ in range(100):
            out.write(b"x" * 2**20)
        out.write(b'"}\n{"text": "last"}\n')
    script = f"""
import resource
from pathlib import Path
from llmos.data.datasets.readers import Source, read
import llmos.data.formats.lines
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = list(read(Source(Path({str(path)!r}), "a.jsonl", "jsonl")))
print(len(found), found[1].reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 it is longer than a row may be, 16 MB ")
    unit = 1024 if sys.platform == "linux" else 1
    assert int(done.stdout.split()[-1]) * unit < 80 * 2**20


def test_markdown_has_its_front_matter_as_notes(tmp_path: Path) -> None:
    front = "---\ntitle: 河流\ndate: 2024-05-06\ntags: [a, b]\n---\n\n# One\n\nTwo\n"
    first, second = rows_of(tmp_path / "a.md", front)
    meta = {"title": "河流", "date": "2024-05-06", "tags": ["a", "b"]}
    assert first == {"id": "a.md:7", "text": "# One", "meta": meta}
    assert second == {"id": "a.md:9", "text": "Two", "meta": meta}
    plain = rows_of(tmp_path / "a.md", "---\nno front matter\n\nmore", unit="document")
    assert plain == [{"id": "a.md", "text": "---\nno front matter\n\nmore"}]
    assert rows_of(tmp_path / "a.md", "---\n---\nText") == [{"id": "a.md:3", "text": "Text"}]


@pytest.mark.parametrize(
    ("front", "said"),
    [
        ("a: [1", "is not YAML"),
        ("- a", "is no mapping"),
        ("a: &x [1]\nb: [*x, *x]", "has aliases"),
        ("date: 2024-13-45", "has what cannot be read"),
        ("a: !!binary aGk=", "type bytes"),
    ],
)
def test_front_matter_that_cannot_be_read_is_said_and_the_text_is_read(
    front: str, said: str, tmp_path: Path
) -> None:
    found = rows_of(tmp_path / "a.md", f"---\n{front}\n---\nText")
    assert said in bad(found)[0][1] and "front matter" in bad(found)[0][1]
    assert found[1]["text"] == "Text"


def test_what_stands_at_the_head_of_a_long_text_is_no_front_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "MAX_FRONT_LINES", 3)
    (row,) = rows_of(tmp_path / "a.md", "---\n" + "a: 1\n" * 5 + "---\n", unit="document")
    assert row["text"].startswith("---\na: 1") and "meta" not in row


def test_a_value_of_parquet_that_has_no_form_makes_its_row_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    far = pa.array([0, 2**55, None], pa.timestamp("ms"))
    fine = pa.array([1_000, 1_001, 2_000], pa.timestamp("ns"))
    pq.write_table(pa.table({"n": [1, 2, 3], "far": far, "fine": fine}), path)
    found = rows_of(path, path.read_bytes())
    assert [where for where, _ in bad(found)] == ["a.parquet:2"]
    assert "its 'f" in bad(found)[0][1] and "has no form here" in bad(found)[0][1]
    first = datetime.datetime(1970, 1, 1).isoformat()
    assert found[0]["far"] == first and found[2] == {
        "id": "a.parquet:3",
        "n": 3,
        "fine": f"{first}.000002",
    }


def test_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), path)
    with pytest.raises(DataError, match="has a column twice"):
        rows_of(path, path.read_bytes())


def test_a_cell_that_is_too_large_is_bad_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "MAX_CELL_CHARS", 100)
    found = rows_of(tmp_path / "a.csv", f"a,b\n{'x' * 200},1\ny,2\n")
    assert [where for where, _ in bad(found)] == ["a.csv:2"]
    assert found[-1] == {"id": "a.csv:3", "a": "y", "b": "2"}


def test_sources_say_whether_they_are_packed() -> None:
    assert Source(Path("x"), "a.txt.gz", "text").is_gzipped
    assert not Source(Path("x"), "a.warc.gz", "warc").is_gzipped
