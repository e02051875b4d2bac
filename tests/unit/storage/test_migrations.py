from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from llmos.errors import ConflictError, DatabaseVersionError, DiskFullError
from llmos.storage import migrations
from llmos.storage.database import Database
from llmos.storage.schema import metadata

NEXT_VERSION = f"{int(migrations.HEAD) + 1:04}"
NEXT = """
from alembic import op
import sqlalchemy as sa

revision = "{version}"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("task_defaults") as table:
        table.add_column(sa.Column("note", sa.String()))
    {extra}
"""


def scripts_with_next(tmp_path: Path, extra: str = "") -> Path:
    """The real migrations and one more, as a newer llmos would have them."""
    scripts = tmp_path / "scripts"
    (scripts / "versions").mkdir(parents=True)
    for source in [
        migrations.SCRIPTS / "env.py",
        *(migrations.SCRIPTS / "versions").glob("v*.py"),
    ]:
        target = scripts / source.relative_to(migrations.SCRIPTS)
        target.write_text(source.read_text())
    text = NEXT.format(version=NEXT_VERSION, head=migrations.HEAD, extra=extra)
    (scripts / "versions" / f"v{NEXT_VERSION}_next.py").write_text(text)
    return scripts


def columns(path: Path, table: str) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}


def rows(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT task, model FROM task_defaults").fetchall()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A database of today's schema with a row in it."""
    path = tmp_path / "a.db"
    migrations.prepare(path, now=0.0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO task_defaults VALUES ('t', 'm', 'o')")
        connection.commit()
    return path


def test_the_migrations_make_the_schema_that_the_code_uses(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "a.db")

    def differences(connection):
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return compare_metadata(context, metadata)

    assert database.read_sync(differences) == []
    database.close()
    assert migrations.stored_version(tmp_path / "a.db") == migrations.HEAD
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600


def test_an_older_database_is_backed_up_then_migrated(tmp_path: Path, old: Path) -> None:
    migrations.prepare(old, now=86400.0, scripts=scripts_with_next(tmp_path), head=NEXT_VERSION)
    assert "note" in columns(old, "task_defaults")
    assert rows(old) == [("t", "m")]
    saved = tmp_path / f"a.db.{migrations.HEAD}-19700102T000000Z.bak"
    assert migrations.stored_version(saved) == migrations.HEAD
    assert rows(saved) == [("t", "m")]


def test_a_migration_that_fails_leaves_the_old_database(tmp_path: Path, old: Path) -> None:
    scripts = scripts_with_next(tmp_path, extra="raise ValueError('stop')")
    with pytest.raises(ValueError, match="stop"):
        migrations.prepare(old, now=0.0, scripts=scripts, head=NEXT_VERSION)
    assert migrations.stored_version(old) == migrations.HEAD
    assert "note" not in columns(old, "task_defaults")
    assert rows(old) == [("t", "m")]


def test_a_newer_database_is_refused_untouched(tmp_path: Path, old: Path) -> None:
    migrations.prepare(old, now=0.0, scripts=scripts_with_next(tmp_path), head=NEXT_VERSION)
    before = old.read_bytes()
    with pytest.raises(DatabaseVersionError, match="upgrade llmos"):
        Database.open(old)
    assert old.read_bytes() == before


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(ConflictError, match="not an llmos database"):
        Database.open(tmp_path / "a.db")


def test_no_room_for_the_backup_leaves_the_old_database(
    tmp_path: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(migrations, "sync_file", full)
    with pytest.raises(DiskFullError):
        migrations.prepare(old, now=0.0, scripts=scripts_with_next(tmp_path), head=NEXT_VERSION)
    assert migrations.stored_version(old) == migrations.HEAD
    assert not list(tmp_path.glob("*.bak"))


def test_opening_a_current_database_does_not_load_alembic(old: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from llmos.storage.database import Database\n"
        f"Database.open(Path({str(old)!r})).close(); print('alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_database_of_the_first_schema_gets_todays(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrations.prepare(path, now=0.0, head="0001")
    assert columns(path, "responses") == set()
    migrations.prepare(path, now=0.0)
    assert "expires_at" in columns(path, "responses")
    assert migrations.stored_version(path) == migrations.HEAD


def test_what_was_uploaded_and_kept_before_stays_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    migrations.prepare(path, now=0.0, head="0004")
    route = "'chat', '[]', '[]', 'alice', 1.0"
    answer = "'id', 'a', 'm:1', 'd', 'm:1', '{\"x\":1}', '[]', '{}', 'alice', 1.0"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"""
            INSERT INTO keys VALUES ('k', '', x'00', 'user', NULL, NULL, 0, 'alice', 0, NULL, NULL);
            INSERT INTO audit VALUES (1, 0, 'k', 'blobs.create', 'sha256:aa', '{{"size": 7}}', '', '', '');
            INSERT INTO audit VALUES (2, 0, 'k', 'blobs.create', 'sha256:aa', '{{"size": 7}}', '', '', '');
            INSERT INTO audit VALUES (3, 0, 'k', 'models.create', 'm:1', '{{}}', '', '', '');
            INSERT INTO routes (name, targets, fallbacks, owner, updated_at) VALUES ({route});
            INSERT INTO answers VALUES ({answer});
            """  # noqa: E501
        )
    migrations.prepare(path, now=0.0)
    with closing(sqlite3.connect(path)) as connection:
        uploads = connection.execute("SELECT * FROM blob_owners").fetchall()
        routes = connection.execute("SELECT owner, name FROM routes").fetchall()
        answers = connection.execute("SELECT id, size_bytes FROM answers").fetchall()
    assert uploads == [("alice", "sha256:aa", 7)]
    assert routes == [("alice", "chat")]
    assert answers == [("id", 9)]
