"""SQLAlchemy engines on SQLite: explicit transactions, pragmas on every connection, strict JSON.

Also says which typed error a failure of SQLite is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import URL, Connection, Engine, Pool, create_engine, event
from sqlalchemy.exc import DBAPIError

from llmos.errors import DiskFullError, OverloadedError

LOCK_WAIT_S = 30.0
WRITER_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
READER_PRAGMAS = ("query_only=ON", "foreign_keys=ON")
MIGRATION_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=OFF")


def make_engine(
    path: Path | None,
    *,
    begin: str,
    pragmas: Sequence[str],
    poolclass: type[Pool] | None = None,
) -> Engine:
    """Return an engine on the database at ``path`` (None: in memory).

    Args:
        begin: the statement that opens a transaction (``BEGIN`` or ``BEGIN IMMEDIATE``); Python's
            own implicit transactions are off, as they break savepoints.
        pragmas: set on every new connection.
    """
    engine = create_engine(
        URL.create("sqlite", database=None if path is None else str(path)),
        connect_args={
            "isolation_level": None,
            "check_same_thread": False,
            "timeout": LOCK_WAIT_S,
        },
        json_serializer=_to_json,
        json_deserializer=msgspec.json.decode,
        poolclass=poolclass,
    )

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin_transaction(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _to_json(value: Any) -> str:
    """Plain JSON text; NaN and infinities, which JSON lacks, become null."""
    return msgspec.json.encode(value).decode()


def typed_error(error: DBAPIError) -> Exception:
    """Return the llmos error a database failure means, or ``error`` itself."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code == sqlite3.SQLITE_FULL:
        return DiskFullError()
    if code is not None and code & 0xFF == sqlite3.SQLITE_BUSY:
        return OverloadedError("Another program holds the database: close it, then try again.")
    return error
