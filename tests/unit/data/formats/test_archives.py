"""Archives: what is in them is read as if it lay beside them, and nothing else is."""

from __future__ import annotations

import contextlib
import io
import random
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.formats.sample_files import PAGE, bad, docx_of, pdf_of, zip_of

from llmos.data.datasets.readers import Source, format_of
from llmos.data.datasets.reading import rows_in
from llmos.data.formats import packed
from llmos.data.formats.parser import Parser
from llmos.errors import DataError

FILES: dict[str, bytes | str] = {
    "b/two.txt": "Two.\n\n三",
    "a.jsonl": '{"text": "one"}\n',
    "picture.png": b"\x89PNG",
    "__MACOSX/b/._two.txt": "x",
    ".hidden/a.txt": "x",
}
ROWS = [
    {"id": "x/b/two.txt:1", "text": "Two."},
    {"id": "x/b/two.txt:3", "text": "三"},
    {"id": "x/a.jsonl:1", "text": "one"},
]


@pytest.fixture(scope="module")
def parser() -> Iterator[Parser]:
    with Parser() as running:
        yield running


def tar_of(files: dict[str, bytes | str], *more: tarfile.TarInfo, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for info in more:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return out.getvalue()


def rows_of(path: Path, content: bytes, parser: Parser, **options: Any) -> list[Any]:
    path.write_bytes(content)
    folder = path.parent / "scratch"
    folder.mkdir(exist_ok=True)
    return list(rows_in(Source(path, "x", format_of(path.name), **options), parser, folder))


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("x.tar", "w"),
        ("x.tar.gz", "w:gz"),
        ("x.tgz", "w:gz"),
        ("x.tar.bz2", "w:bz2"),
        ("x.tar.xz", "w:xz"),
    ],
)
def test_the_data_files_of_a_tar_are_read(
    name: str, mode: str, parser: Parser, tmp_path: Path
) -> None:
    assert rows_of(tmp_path / name, tar_of(FILES, mode=mode), parser) == ROWS


def test_the_data_files_of_a_zip_are_read(parser: Parser, tmp_path: Path) -> None:
    assert rows_of(tmp_path / "x.zip", zip_of(FILES), parser) == ROWS


def test_documents_in_an_archive_are_parsed_and_a_bad_one_is_bad_alone(
    parser: Parser, tmp_path: Path
) -> None:
    files: dict[str, bytes | str] = {
        "a.pdf": pdf_of("Page."),
        "locked.pdf": pdf_of("Secret.", password="x"),
        "b.html": PAGE,
        "c.docx": docx_of("Word."),
        "binary.txt": bytes(range(256)),
        "d.txt": "End.",
    }
    found = rows_of(tmp_path / "x.zip", zip_of(files), parser, unit="document")
    assert [one["id"] for one in found if isinstance(one, dict)] == [
        "x/a.pdf",
        "x/b.html",
        "x/c.docx",
        "x/d.txt",
    ]
    told = dict(bad(found))
    assert "encrypted" in told["x/locked.pdf"] and "a binary file" in told["x/binary.txt"]
    assert len(told) == 2


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../up.txt", "leads out of the archive"),
        ("a/../../up.txt", "leads out of the archive"),
        ("/etc/passwd.txt", "leads out of the archive"),
        ("C:\\up.txt", "leads out of the archive"),
        ("..\\up.txt", "leads out of the archive"),
        ("inner.zip", "an archive in an archive is not opened"),
        ("inner.tar.gz", "an archive in an archive is not opened"),
        ("fine.txt", "has a file of this name before"),
    ],
)
def test_names_that_lead_out_and_archives_within_are_refused(
    name: str, said: str, parser: Parser, tmp_path: Path
) -> None:
    odd = (zipfile.ZipInfo(name), b"x")
    for path, content in (
        ("x.zip", zip_of({"fine.txt": "Fine."}, odd)),
        ("x.tar", tar_of({"fine.txt": "Fine."}, tarfile.TarInfo(name))),
    ):
        found = rows_of(tmp_path / path, content, parser)
        assert [one["text"] for one in found if isinstance(one, dict)] == ["Fine."]
        assert len(bad(found)) == 1 and said in bad(found)[0][1]
    assert not (tmp_path / "up.txt").exists()


def test_links_and_specials_are_refused(parser: Parser, tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    found = rows_of(tmp_path / "x.zip", zip_of({"a.txt": "A."}, (link, b"/etc/passwd")), parser)
    assert bad(found) == [("x/link.txt", "it is a link or the like")] and len(found) == 2
    odd = []
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        info = tarfile.TarInfo(f"{kind.decode()}.txt")
        info.type, info.linkname = kind, "/etc/passwd"
        odd.append(info)
    found = rows_of(tmp_path / "x.tar", tar_of({"a.txt": "A."}, *odd), parser)
    assert [reason for _, reason in bad(found)] == ["it is a link or the like"] * 4


def test_bombs_are_refused_before_they_unpack(
    parser: Parser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "FREE_BYTES", 2**20)
    much = bytes(2**24)
    for name, content in (
        ("x.zip", zip_of({"a.txt": much})),
        ("x.tar.gz", tar_of({"a.txt": much}, mode="w:gz")),
        ("x.tar.xz", tar_of({"picture.png": much}, mode="w:xz")),
    ):
        with pytest.raises(DataError, match="x unpacks to more than 200 times its size"):
            rows_of(tmp_path / name, content, parser)
    monkeypatch.setattr(packed, "MAX_MEMBERS", 3)
    many: dict[str, bytes | str] = {f"{n}.txt": "x" for n in range(4)}
    for name, content in (("x.zip", zip_of(many)), ("x.tar", tar_of(many))):
        with pytest.raises(DataError, match="more than 3 files"):
            rows_of(tmp_path / name, content, parser)
    monkeypatch.setattr(packed, "MAX_UNPACKED_BYTES", 2**20)
    with pytest.raises(DataError, match="unpack it yourself"):
        rows_of(tmp_path / "x.tar", tar_of({"a.txt": much}), parser)


def test_broken_and_encrypted_files_are_bad_and_broken_archives_refused(
    parser: Parser, tmp_path: Path
) -> None:
    content = bytearray(zip_of({"a.txt": "Alpha beta gamma." * 50, "b.txt": "B."}))
    content[45] ^= 0xFF
    found = rows_of(tmp_path / "x.zip", bytes(content), parser)
    assert found[-1]["text"] == "B." and "broken" in bad(found)[0][1]
    content = bytearray(zip_of({"a.txt": "A."}))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    assert bad(rows_of(tmp_path / "x.zip", bytes(content), parser)) == [
        ("x/a.txt", "it is encrypted")
    ]
    whole = tar_of(FILES, mode="w:gz")
    for name, broken in (
        ("x.zip", b"PK no zip"),
        ("x.tar", b"no tar" * 200),
        ("x.tar.gz", whole[: len(whole) // 2]),
        ("x.tar.bz2", tar_of(FILES, mode="w:bz2")[:-30]),
    ):
        with pytest.raises(DataError, match=r"no tar archive|no zip file"):
            rows_of(tmp_path / name, broken, parser)


def test_a_tar_whose_headers_are_broken_or_that_breaks_off_is_not_taken_for_shorter(
    parser: Parser, tmp_path: Path
) -> None:
    whole = tar_of({"a.txt": "A.", "b.txt": "B." * 1000})
    broken = bytearray(whole)
    broken[1024 + 3] ^= 1  # in the name of the second
    for content in (bytes(broken), whole[:1100], whole[:2000], whole + b"more" * 128):
        with pytest.raises(DataError, match="no tar archive that can be read"):
            rows_of(tmp_path / "x.tar", content, parser)
    assert len(rows_of(tmp_path / "x.tar", whole, parser)) == 2


def test_an_archive_of_nonsense_raises_nothing_else(parser: Parser, tmp_path: Path) -> None:
    draw = random.Random(0)
    for content in (zip_of(FILES), tar_of(FILES), tar_of(FILES, mode="w:gz")):
        name = "x.zip" if content.startswith(b"PK") else "x.tar"
        for _ in range(150):
            damaged = bytearray(content)
            for _ in range(draw.choice((1, 3, 10))):
                damaged[draw.randrange(len(damaged))] = draw.choice((0, 255, draw.randrange(256)))
            end = draw.choice((len(damaged), draw.randrange(len(damaged))))
            with contextlib.suppress(DataError):
                rows_of(tmp_path / name, bytes(damaged[:end]), parser)


def test_names_in_gbk_are_read(parser: Parser, tmp_path: Path) -> None:
    content = zip_of({"XXXX.txt": "一"}).replace(b"XXXX", "数据".encode("gbk"))
    (row,) = rows_of(tmp_path / "x.zip", content, parser)
    assert row["id"] == "x/数据.txt:1"
