"""Rows of a database as files, read where the client runs and by the user's own rights: no server
ever gets its address or its password. Nothing is written to the database.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import re
import sqlite3
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from llmos.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

PART_BYTES = 64 * 2**20
"""Of rows that are written before they are sent."""
CHUNK_ROWS = 1000
MAX_SHOWN_CHARS = 1000
_QUOTED = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | `[^`]*` | --[^\n]*
    | /\*.*?\*/ | \$(\w*)\$.*?\$\1\$""",
    re.DOTALL | re.VERBOSE,
)
"""What of a statement is no code: texts, names in quotes, comments."""


def parts(url: str, query: str, folder: Path) -> Iterator[Path]:
    """Yield files of JSON lines with the rows of a query, each written when it is asked for; the
    caller removes them.

    Args:
        url: of a SQLite file, which is opened to be read only, or of PostgreSQL, where the
            transaction can only read.

    Raises:
        DataError: the query is not one that only reads, fails, or gives no rows.
    """
    statement = check_query(query)
    number = 0
    with _connected(url) as connection, _errors():
        result = connection.exec_driver_sql(statement)
        names = _names(list(result.keys()))
        rows = (_row(names, row) for row in result)
        row = next(rows, None)
        while row is not None:
            path = folder / f"query-{number:05d}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                while row is not None and file.tell() < PART_BYTES:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    row = next(rows, None)
            yield path
            number += 1
    if not number:
        raise DataError("the query gives no rows", param="sql")


def shown(url: str, query: str) -> str:
    """Return where rows are from, without a password, which may be among a URL's options too."""
    where = _parsed(url).set(query={}).render_as_string(hide_password=True)
    return f"{where}: {query.strip()}"[:MAX_SHOWN_CHARS]


def check_query(query: str) -> str:
    """Return one statement that reads, without a semicolon behind it.

    Raises:
        DataError: it is something else.
    """
    statement = query.strip().rstrip(";").rstrip()
    code = _QUOTED.sub(" ", statement)
    words = code.split(None, 1)
    first = words[0].partition("(")[0].upper() if words else ""
    if first not in ("SELECT", "WITH"):
        raise DataError(
            f"the query begins with {first[:40] or 'nothing'}: only SELECT, or WITH … SELECT, "
            "reads rows",
            param="sql",
        )
    if ";" in code:
        raise DataError("there is more than one statement: give one SELECT", param="sql")
    return statement


def _parsed(url: str) -> URL:
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except ArgumentError:
        raise DataError(
            "--url must be as sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE",
            param="url",
        ) from None


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    """Give a connection that can only read, and that gives rows as they come."""
    from sqlalchemy import create_engine

    parsed = _parsed(url)
    kind = parsed.get_backend_name()
    options: dict[str, Any] = {"stream_results": True, "yield_per": CHUNK_ROWS}
    options["no_parameters"] = True  # a "%" in the query is one
    try:
        if kind == "sqlite":
            file = _sqlite_file(parsed)
            engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(file, uri=True))
        elif kind == "postgresql":
            engine = create_engine(parsed)
            options["postgresql_readonly"] = True
        else:
            raise DataError(f"{kind} cannot be read: use sqlite or postgresql", param="url")
    except ImportError as error:
        package = "'psycopg[binary]'" if error.name == "psycopg" else error.name
        raise DataError(f"{error.name} is needed: `pip install {package}`") from None
    try:
        with _errors(), engine.connect() as connection:
            yield connection.execution_options(**options)
            connection.rollback()
    finally:
        engine.dispose()


def _sqlite_file(url: URL) -> str:
    path = Path(url.database or "")
    if not url.database or url.query or not path.is_file():
        raise DataError(f"there is no SQLite file {url.database or ''!r}", param="url")
    return f"file:{quote(str(path.absolute()))}?mode=ro"


@contextmanager
def _errors() -> Iterator[None]:
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip()
        if "readonly" in reason or "read-only" in reason:
            reason += ": a dataset is made by a query that only reads"
        raise DataError(f"the query failed: {reason[:500]}", param="sql") from error


def _names(names: list[str]) -> list[str]:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"the query has two columns {twice!r}: name one otherwise by AS")
    return names


def _row(names: Sequence[str], values: Sequence[Any]) -> dict[str, Any]:
    pairs = zip(names, values, strict=True)
    told = {name: _plain(value, name) for name, value in pairs}
    return {name: value for name, value in told.items() if value is not None}


def _plain(value: Any, name: str) -> Any:
    """Return a value as JSON has it: dates, durations and decimals as text."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case None | str() | bool() | int() | float():
            return value
        case datetime.date() | datetime.time():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID() | datetime.timedelta():
            return str(value)
        case dict():
            return {str(key): _plain(one, name) for key, one in value.items()}
        case list() | tuple():
            return [_plain(one, name) for one in value]
    raise DataError(
        f"the column {name!r} holds {type(value).__name__}, which JSON has no form for: leave it "
        "out, or make a text of it in the query",
        param="sql",
    )
