"""Rows of a database by a query that only reads."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from llmos.errors import DataError
from llmos.sdk import query_rows
from llmos.sdk.query_rows import check_query, parts, shown


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    """The URL of a database of posts."""
    path = tmp_path / "blog posts.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE posts (id INTEGER, text TEXT, score REAL, raw BLOB, day DATE)")
        made.executemany(
            "INSERT INTO posts VALUES (?, ?, ?, ?, '2024-01-02')",
            [(n, f"post {n} 第", None if n % 2 else n / 2, b"\0") for n in range(3000)],
        )
    made.close()
    before = path.read_bytes()
    yield f"sqlite:///{path}"
    assert path.read_bytes() == before, "nothing was written"
    assert list(tmp_path.glob("*.db-*")) == []


def rows(url: str, query: str, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir(exist_ok=True)
    found = []
    for part in parts(url, query, folder):
        found += [json.loads(line) for line in part.read_text("utf-8").splitlines()]
        part.unlink()
    return found


def test_the_rows_of_a_query_come_as_they_are(database: str, tmp_path: Path) -> None:
    query = "SELECT id, text, score, day FROM posts WHERE text LIKE '%5%' ORDER BY id; "
    found = rows(database, query, tmp_path / "parts")
    with sqlite3.connect(database.removeprefix("sqlite:///")) as read:
        count = read.execute("SELECT count(*) FROM posts WHERE text LIKE '%5%'").fetchone()[0]
    read.close()
    assert len(found) == count
    assert found[0] == {"id": 5, "text": "post 5 第", "day": "2024-01-02"}
    assert found[1] == {"id": 15, "text": "post 15 第", "day": "2024-01-02"}


def test_parts_are_written_one_at_a_time(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_rows, "PART_BYTES", 10_000)
    seen = []
    for part in parts(database, "WITH p AS (SELECT * FROM posts) SELECT id, text FROM p", tmp_path):
        assert [path.name for path in tmp_path.glob("query-*")] == [part.name]
        seen += [json.loads(line)["id"] for line in part.read_text("utf-8").splitlines()]
        part.unlink()
    assert seen == list(range(3000))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT ':name', '100%', \"text\" FROM posts LIMIT 1",
        "select 'a;b' AS x -- ; a comment\n",
        "/* DROP TABLE posts; */ SELECT 1 AS one;",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 5) SELECT i FROM n",
    ],
)
def test_what_reads_is_run(database: str, tmp_path: Path, query: str) -> None:
    assert rows(database, query, tmp_path / "parts")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("", "begins with nothing"),
        ("-- a comment", "begins with nothing"),
        ("DELETE FROM posts", "begins with DELETE"),
        ("insert into posts values (1)", "begins with INSERT"),
        ("DROP TABLE posts", "begins with DROP"),
        ("ATTACH 'other.db' AS o", "begins with ATTACH"),
        ("PRAGMA query_only = OFF", "begins with PRAGMA"),
        ("/* SELECT */ VACUUM", "begins with VACUUM"),
        ("SELECT 1; DELETE FROM posts", "more than one statement"),
        ("SELECT ';' ; DROP TABLE posts; --'", "more than one statement"),
        ("SELECT E'\\'' ; DROP TABLE posts; --'", "more than one statement"),
        ("SELECT $x$ ' $x$; DROP TABLE posts; --'", "more than one statement"),
        ("SELECT 1 /* */ ; DROP TABLE posts /* */", "more than one statement"),
    ],
)
def test_what_does_more_than_read_is_refused(query: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        check_query(query)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("WITH x AS (SELECT 1) DELETE FROM posts", "query that only reads"),
        ("WITH x AS (SELECT 1) INSERT INTO posts (id) SELECT 1", "query that only reads"),
        ("WITH x AS (SELECT 1) UPDATE posts SET text = ''", "query that only reads"),
        ("SELECT wrong FROM posts", "the query failed: no such column"),
        ("SELECT load_extension('x')", "the query failed"),
        ("SELECT 'open", "the query failed"),
        ("SELECT id, id FROM posts", "two columns 'id'"),
        ("SELECT raw FROM posts", "'raw' holds bytes"),
        ("SELECT id FROM posts WHERE id < 0", "gives no rows"),
    ],
)
def test_the_database_itself_is_closed_to_writing(
    database: str, tmp_path: Path, query: str, said: str
) -> None:
    with pytest.raises(DataError, match=said):
        rows(database, query, tmp_path / "parts")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///nothing/there.db", "no SQLite file"),
        ("sqlite://", "no SQLite file"),
        ("nonsense", "--url must be as"),
        ("mssql://host/database", "use sqlite or postgresql"),
    ],
)
def test_what_is_no_database_is_told(tmp_path: Path, url: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        rows(url, "SELECT 1", tmp_path / "parts")


def test_sqlite_takes_no_options_from_a_url(database: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no SQLite file"):
        rows(f"{database}?mode=rwc", "SELECT 1 AS one", tmp_path / "parts")


def test_postgresql_is_read_in_a_transaction_that_can_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Connection:
        def __enter__(self) -> Connection:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def execution_options(self, **options: Any) -> Connection:
            asked.update(options)
            return self

        def exec_driver_sql(self, statement: str) -> Any:
            asked["statement"] = statement
            raise sqlalchemy.exc.InternalError("x", None, Exception("in a read-only transaction"))

        def rollback(self) -> None:
            pass

    class Engine:
        def connect(self) -> Connection:
            return Connection()

        def dispose(self) -> None:
            pass

    monkeypatch.setattr(sqlalchemy, "create_engine", lambda url: Engine())
    with pytest.raises(DataError, match="only reads"):
        rows("postgresql://me:secret@host/db", "SELECT nextval('x')", tmp_path / "parts")
    assert asked["postgresql_readonly"] is True and asked["stream_results"] is True


def test_a_driver_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(DataError, match="psycopg is needed"):
        rows("postgresql+psycopg://host/db", "SELECT 1", tmp_path / "parts")


def test_a_password_is_not_told() -> None:
    told = shown("postgresql://me:secret@host/db", " SELECT 1 ")
    assert told == "postgresql://me:***@host/db: SELECT 1"
    told = shown("postgresql://host/db?user=me&password=secret&sslpassword=secret", "SELECT 1")
    assert told == "postgresql://host/db: SELECT 1"
