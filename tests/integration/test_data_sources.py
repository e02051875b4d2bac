"""Folders of mixed documents, text and archives become one dataset, whatever is bad among them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.echoserver import EchoServer
from tests.unit.data.data_jobs import Home, only
from tests.unit.data.formats.sample_files import (
    PAGE,
    docx_of,
    epub_of,
    pdf_of,
    warc_of,
    zip_of,
)

from llmos.data.datasets import adding
from llmos.errors import DataError, JobFailedError
from llmos.library.manifest import version_digest
from llmos.sdk.client import Client


def mixed() -> dict[str, bytes | str]:
    """A file of nearly every format, and one that is encrypted."""
    return {
        "a/report.pdf": pdf_of("One page.", "Another page."),
        "a/locked.pdf": pdf_of("Secret.", password="x"),
        "a/page.html": PAGE,
        "b/letter.docx": docx_of("Dear reader,", [["a", "b"]]),
        "b/book.epub": epub_of("<p>第一章。</p>", "<p>第二章。</p>"),
        "b/notes.md": "---\ntitle: Notes\n---\nA note.",
        "b/plain.txt": "数据需要清洗，也需要去重。\n\n第二段。",
        "b/lines.jsonl.gz": gzip.compress(b'{"text": "packed"}\n'),
        "c/crawl.warc.gz": warc_of(
            ("https://a.example/1", "200 OK", "text/html", PAGE.encode()),
        ),
        "c/tags.conll": "Ann\tB-PER\nwent\tO\n",
        "c/more.zip": zip_of({"inner.html": PAGE, "inner.csv": "text\nin a cell\n"}),
    }


EXPECTED = [
    "a/page.html",
    "a/report.pdf:1",
    "a/report.pdf:2",
    "b/book.epub:1",
    "b/book.epub:2",
    "b/letter.docx",
    "b/lines.jsonl.gz:1",
    "b/notes.md:4",
    "b/plain.txt:1",
    "b/plain.txt:3",
    "c/crawl.warc.gz:2",
    "c/more.zip/inner.html",
    "c/more.zip/inner.csv:2",
    "c/tags.conll:1",
]


def test_a_mixed_folder_is_the_same_dataset_whatever_the_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adding, "GROUP_BYTES", 2**12)
    digests = set()
    for threads in (1, 3):
        home = Home(tmp_path / str(threads), threads)
        version = only(home.add(mixed(), max_bad=0.1))
        digests.add(version_digest(version.files, version.manifest))
        rows = home.rows(version)
        assert [row["id"] for row in rows] == EXPECTED
        (bad,) = home.table(version, "rejected.parquet")
        assert bad["id"] == "a/locked.pdf" and "encrypted" in bad["reason"]
    assert len(digests) == 1
    told = {one["name"]: one for one in version.manifest["source"]["files"]}
    assert told["c/more.zip"]["rows"] == 2 and told["a/locked.pdf"]["bad"] == 1
    assert told["b/plain.txt"]["encoding"] == "utf-8" and "encoding" not in told["a/page.html"]


def test_too_much_that_is_bad_stops_and_nothing_is_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(DataError, match=r"over the 1.00% .*a/locked.pdf: it is encrypted"):
        home.add(mixed())
    with pytest.raises(DataError, match=r"a/locked.pdf: it is encrypted"):
        home.add(mixed(), on_bad="stop")
    bomb = zip_of({"a.txt": bytes(2**29)})
    assert len(bomb) < 2**20
    with pytest.raises(DataError, match=r"bomb.zip unpacks to more than 200 times its size"):
        home.add({"bomb.zip": bomb, "a.txt": "One."})


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    running = EchoServer(tmp_path_factory.mktemp("home"))
    with Client(running.url, running.key) as made:
        yield made
    running.stop()


def test_a_folder_goes_in_with_one_call(client: Client, tmp_path: Path) -> None:
    for name, content in mixed().items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    job = client.wait(client.add_dataset(tmp_path, "corpus", max_bad=0.1)["id"])
    assert job["result"]["rows"] == len(EXPECTED) and job["result"]["rejected"] == 1
    assert client.dataset_head("corpus", 1)[0]["meta"]["title"] == "On rivers"
    whole = client.wait(client.add_dataset(tmp_path, "corpus", unit="document", max_bad=0.1)["id"])
    assert whole["result"]["rows"] == len(EXPECTED) - 3
    with pytest.raises(JobFailedError, match="it is encrypted"):
        client.wait(client.add_dataset(tmp_path / "a/locked.pdf", "locked")["id"])
    assert json.dumps([one["ref"] for one in client.datasets()]) == '["corpus:2", "corpus:1"]'
