"""The table of the formats that become rows, and what every reader is given and gives.

A reader is a function in `llmos.data.formats`: it takes a Source and yields rows. What cannot be
read it yields as `Bad`, with the reason, and goes on behind it.
"""

from __future__ import annotations

import datetime
import decimal
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec

from llmos.data.pipeline.record import ID, META, Row
from llmos.errors import DataError
from llmos.storage.parquet import check_packages

Unit = Literal["paragraph", "line", "document", "page"]
MAX_RECORD_BYTES = 16 * 2**20
PART_BYTES = 64 * 2**20
"""A larger file is read in parts of about so many, where it can be cut."""
MAX_COLUMNS = 1000
MAX_NAME_CHARS = 200
MAX_DEPTH = 64
EXCERPT_CHARS = 200
_INT64 = range(-(2**63), 2**63)
_HERE = "llmos.data.formats"


@dataclass(frozen=True, slots=True)
class Format:
    """How files of one kind become rows.

    Attributes:
        reader: "module:function".
        suffixes: of its files; those of lines may have .gz behind them.
        kind: text that is read line by line, in an encoding that is found out; a file of rows; a
            document, which is parsed in a process of its own, as that may end or hang it; or an
            archive, whose reader yields a Source for each file in it.
        needs: modules that it takes -> the packages they come from.
        parts: "module:function" that says where a large file can be cut, so that several processes
            read it; none where only who reads from the beginning knows what a line means.
    """

    reader: str
    suffixes: tuple[str, ...]
    kind: Literal["lines", "rows", "document", "archive"] = "lines"
    needs: Mapping[str, str] = field(default_factory=dict)
    parts: str = ""


_HTML = {"trafilatura": "trafilatura"}
FORMATS = {
    "text": Format(f"{_HERE}.text:text", (".txt",), parts=f"{_HERE}.text:text_parts"),
    "markdown": Format(f"{_HERE}.text:markdown", (".md", ".markdown")),
    "jsonl": Format(
        f"{_HERE}.lines:json_lines", (".jsonl", ".ndjson"), parts=f"{_HERE}.lines:line_parts"
    ),
    "json": Format(f"{_HERE}.json_list:json_list", (".json",)),
    "csv": Format(f"{_HERE}.cells:cells", (".csv",), parts=f"{_HERE}.cells:cell_parts"),
    "tsv": Format(f"{_HERE}.cells:cells", (".tsv",), parts=f"{_HERE}.cells:cell_parts"),
    "conll": Format(f"{_HERE}.conll:conll", (".conll",)),
    "conllu": Format(f"{_HERE}.conll:conllu", (".conllu",)),
    "parquet": Format(
        f"{_HERE}.parquet:parquet",
        (".parquet",),
        "rows",
        parts=f"{_HERE}.parquet:parquet_parts",
    ),
    "html": Format(f"{_HERE}.html:html", (".html", ".htm", ".xhtml"), "document", _HTML),
    "pdf": Format(f"{_HERE}.pdf:pdf", (".pdf",), "document", {"pypdf": "pypdf"}),
    "docx": Format(f"{_HERE}.docx:docx", (".docx",), "document", {"docx": "python-docx"}),
    "epub": Format(f"{_HERE}.epub:epub", (".epub",), "document", {"lxml": "lxml"}),
    "warc": Format(
        f"{_HERE}.warc:warc", (".warc", ".warc.gz"), "document", {**_HTML, "warcio": "warcio"}
    ),
    "zip": Format(f"{_HERE}.archives:zip_members", (".zip",), "archive"),
    "tar": Format(
        f"{_HERE}.archives:tar_members",
        (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"),
        "archive",
    ),
}
"""Every format by name. One more is a line here and its reader; `llmos.sdk` lists its suffixes."""
SUFFIXES = {
    suffix + packed: name
    for name, form in FORMATS.items()
    for suffix in form.suffixes
    for packed in (("", ".gz") if form.kind == "lines" else ("",))
}
"""Suffix -> the name of its format."""


@dataclass(frozen=True, slots=True)
class Bad:
    """What could not be read: where it stands, why, and how it begins."""

    where: str
    reason: str
    excerpt: str = ""


class Part(msgspec.Struct, frozen=True):
    """What of a file one process reads: from ``begin`` to before ``end``, bytes or rows of Parquet.

    Attributes:
        before: the lines, or rows, before it.
        columns: of cells behind a header, as that calls them.
    """

    begin: int
    end: int
    before: int
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A file and how it is to be read.

    Attributes:
        path: where it lies.
        shown: what its user calls it.
        format: a name in FORMATS.
        encoding: of text; found out unless given.
        unit: what of a text or a document is a row; what its format is cut into unless given.
        columns: of a file of cells without a header line, of CoNLL those of its lines.
        part: what of it is read; all unless told.
    """

    path: Path
    shown: str
    format: str
    encoding: str | None = None
    unit: Unit | None = None
    columns: tuple[str, ...] = ()
    part: Part | None = None

    @property
    def before(self) -> int:
        """The lines, or rows, before what is read."""
        return self.part.before if self.part else 0

    @property
    def kind(self) -> str:
        """That of its format."""
        return FORMATS[self.format].kind

    @property
    def is_gzipped(self) -> bool:
        """Whether its lines are packed."""
        return self.kind == "lines" and self.shown.lower().endswith(".gz")


def format_of(shown: str, given: str | None = None) -> str:
    """Return the name of the format of a file: as given, else by its suffix.

    Raises:
        DataError: nothing tells.
    """
    found = given or suffix_format(shown)
    if found is None:
        raise DataError(
            f"{shown}: what it holds is not known: files may end in {', '.join(SUFFIXES)}, "
            "or name the --format"
        )
    return found


def suffix_format(shown: str) -> str | None:
    """Return the name of the format that a file's suffix tells, None where it tells none."""
    last = [suffix.lower() for suffix in PurePosixPath(shown).suffixes[-2:]]
    return SUFFIXES.get("".join(last)) or (SUFFIXES.get(last[-1]) if last else None)


def reader_of(source: Source) -> Callable[..., Iterator[Any]]:
    """Return the reader of a file's format.

    Raises:
        DataError: a package that it needs is not installed.
    """
    form = FORMATS[source.format]
    check_packages(form.needs)
    reader: Callable[..., Iterator[Any]] = _named(form.reader)
    return reader


def parts_of(source: Source, num_bytes: int) -> list[Part]:
    """Return the parts of a file, of about so many bytes each, that read one by one give what it
    gives as a whole; empty where it cannot be cut.

    Raises:
        DataError: it cannot be read.
    """
    form = FORMATS[source.format]
    cut: Callable[[Source, int], list[Part]] | None = _named(form.parts) if form.parts else None
    return cut(source, num_bytes) if cut else []


def _named(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def read(source: Source) -> Iterator[Row | Bad]:
    """Yield a dataset's rows of a file that is no archive, each with an ``id``, its own or
    "FILE:PLACE"; all in this process.

    Raises:
        DataError: nothing of it can be read, or a package is missing.
    """
    yield from reader_of(source)(source)


def checked(row: Row, where: str, excerpt: str) -> Row | Bad:
    """Return a row with its id first and no field that a dataset cannot hold."""
    excerpt = printable(excerpt[:EXCERPT_CHARS])
    given = row.get(ID)
    if given is not None and (not isinstance(given, str | int) or isinstance(given, bool)):
        return Bad(where, "its id is neither text nor a whole number", excerpt)
    if not isinstance(row.get(META, {}), dict):
        return Bad(where, f"its {META!r}, which holds notes, is no mapping: rename it", excerpt)
    if len(row) > MAX_COLUMNS:
        return Bad(where, f"it has more than {MAX_COLUMNS} fields", excerpt)
    reason = unstorable(row)
    if reason is None and any(len(name) > MAX_NAME_CHARS for name in row):
        reason = f"the name of a field is longer than {MAX_NAME_CHARS} characters"
    if reason is not None:
        return Bad(where, reason, excerpt)
    fields = {name: value for name, value in row.items() if name != ID}
    return {ID: where if given is None else str(given), **fields}


def unstorable(value: Any, depth: int = 0) -> str | None:
    """Return why a value cannot be kept, None where it can."""
    if depth > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} deep"
    if isinstance(value, str):
        return None if value.isascii() or _is_unicode(value) else "it is not valid text"
    if isinstance(value, int):
        return None if value in _INT64 else "it has an integer beyond 64 bits"
    if isinstance(value, dict):
        every = (*value, *value.values())
        return next((why for one in every if (why := unstorable(one, depth + 1))), None)
    if isinstance(value, list):
        return next((why for one in value if (why := unstorable(one, depth + 1))), None)
    return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """Return a text whose half characters are question marks."""
    return text.encode("utf-8", "replace").decode()


def too_long() -> str:
    """Return the reason of what is larger than a row may be."""
    return f"it is longer than a row may be, {MAX_RECORD_BYTES // 2**20} MB"


def plain(value: Any) -> Any:
    """Return a value of a library as JSON has it: dates and decimals as text.

    Raises:
        DataError: JSON has no form for it.
    """
    match value:
        case float() if not math.isfinite(value):
            return None
        case None | str() | bool() | int() | float():
            return value
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case dict():
            return {str(name): plain(one) for name, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
    raise DataError(f"it has a value of type {type(value).__name__}, which JSON has no form for")
