"""Brings a database file to this version's schema; alembic is loaded only when there is work to do.

A file of a newer llmos is refused; an older one is copied beside itself first.
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from sqlalchemy.exc import DBAPIError

from llmos.errors import ConflictError, DatabaseVersionError
from llmos.storage.engines import MIGRATION_PRAGMAS, make_engine, typed_error
from llmos.storage.files import disk_errors, sync_directory, sync_file

HEAD = "0009"
SCRIPTS = Path(__file__).parent


def prepare(path: Path, now: float, scripts: Path = SCRIPTS, head: str = HEAD) -> None:
    """Create or migrate the file at ``path`` so that its schema is version ``head``.

    Raises:
        DatabaseVersionError: the file has a newer schema.
        ConflictError: the file is something else than an llmos database.
        DiskFullError: there is no room.
    """
    found = stored_version(path)
    if found == head:
        return
    if found is not None and found > head:
        raise DatabaseVersionError(
            f"{path} has schema {found}, newer than this llmos knows ({head}): "
            "upgrade llmos or use another LLMOS_HOME."
        )
    with disk_errors():
        if found is None:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        else:
            backup(path, found, now)
    _upgrade(path, scripts, head)


def stored_version(path: Path) -> str | None:
    """Return the schema version of the file, or None when it is absent or empty."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    with closing(sqlite3.connect(path)) as connection:
        try:
            tables = {
                name
                for (name,) in connection.execute(
                    "SELECT name FROM sqlite_master WHERE type='table'"
                )
            }
            if "alembic_version" in tables:
                row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
                return str(row[0]) if row else None
        except sqlite3.DatabaseError as error:
            raise ConflictError(f"{path} is not a database that can be read: {error}.") from error
    if tables:
        raise ConflictError(f"{path} is not an llmos database: use another LLMOS_HOME.")
    return None


def backup(path: Path, version: str, now: float) -> Path:
    """Copy the database to ``<path>.<version>-<time>.bak``, complete or not at all; return that."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    target = path.with_name(f"{path.name}.{version}-{stamp}.bak")
    partial = target.with_name(target.name + ".part")
    partial.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(partial)) as copy:
        source.backup(copy)
    partial.chmod(0o600)
    sync_file(partial)
    partial.rename(target)
    sync_directory(path.parent)
    return target


def _upgrade(path: Path, scripts: Path, head: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    engine = make_engine(path, begin="BEGIN IMMEDIATE", pragmas=MIGRATION_PRAGMAS)
    try:
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, head)
    except DBAPIError as error:
        raise typed_error(error) from error
    finally:
        engine.dispose()
