"""What kills the process that parses documents, or never ends in it, is bad alone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.unit.data.formats.sample_files import PAGE, bad, pdf_of

from llmos.data.datasets.readers import Source, format_of
from llmos.data.formats.parser import Parser, ParserLostError

RUN = """
import os, signal
from llmos.data.datasets import readers
from llmos.data.formats import html, parser

parser.CPU_S = 0

def odd(source):
    how = source.path.read_text()
    yield {"id": f"{source.shown}:1", "text": how}
    if how == "loops":
        while True: pass
    if how == "crashes": os.kill(os.getpid(), signal.SIGSEGV)
    if how == "is killed": os.kill(os.getpid(), signal.SIGKILL)
    if how == "takes memory": raise MemoryError
    if how == "raises": raise ZeroDivisionError("\\udcff")
    print("not an answer")

html.html = odd
parser.main()
"""


def source(path: Path, content: bytes | str) -> Source:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Source(path, path.name, format_of(path.name))


def test_documents_are_parsed_one_after_the_other_by_one_process(tmp_path: Path) -> None:
    with Parser() as parser:
        (page,) = parser.rows(source(tmp_path / "a.html", PAGE))
        assert isinstance(page, dict) and page["meta"]["title"] == "On rivers"
        process = parser._process
        found = list(parser.rows(source(tmp_path / "b.pdf", pdf_of("x", password="y"))))
        assert bad(found) == [("b.pdf", "it is encrypted: save it without its password")]
        (row,) = parser.rows(source(tmp_path / "c.pdf", pdf_of("Last.")))
        assert isinstance(row, dict) and row["text"] == "Last."
        assert parser._process is process
    assert parser._process is None


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("loops", "it may be made to never end"),
        ("crashes", "what reads it was killed by SIGSEGV"),
        ("takes memory", "takes more memory than there is"),
        ("raises", "it cannot be read: ZeroDivisionError: ?"),
    ],
)
def test_a_document_that_ends_its_parser_is_bad_alone(how: str, said: str, tmp_path: Path) -> None:
    with Parser([sys.executable, "-c", RUN]) as parser:
        found = list(parser.rows(source(tmp_path / "a.html", how)))
        assert found[0] == {"id": "a.html:1", "text": how}
        ((where, reason),) = bad(found)
        assert where == "a.html" and said in reason
        (row,) = parser.rows(source(tmp_path / "b.html", "fine"))
        assert isinstance(row, dict) and row["text"] == "fine", "another goes on"


def test_a_parser_that_others_kill_is_no_fault_of_the_document(tmp_path: Path) -> None:
    with Parser([sys.executable, "-c", RUN]) as parser:
        with pytest.raises(ParserLostError, match=r"parsed a.html was killed"):
            list(parser.rows(source(tmp_path / "a.html", "is killed")))
        assert ParserLostError.retryable
        (row,) = parser.rows(source(tmp_path / "b.html", "fine"))
        assert isinstance(row, dict)
