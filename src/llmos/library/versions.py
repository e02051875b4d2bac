"""One version of an artifact as a value, and reading versions from the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmos.storage.schema import aliases, lineage, version_files, versions
from llmos.types import FileRef

LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Version:
    """An immutable version: ``files`` by name, ``inputs`` its lineage, times in Unix seconds."""

    id: int
    kind: str
    namespace: str
    name: str
    number: int
    digest: str
    manifest: dict[str, Any]
    files: dict[str, FileRef]
    owner: str
    created_at: float
    job_id: int | None
    aliases: tuple[str, ...]
    inputs: tuple[str, ...]
    removed_at: float | None = None

    @property
    def full_name(self) -> str:
        """``[namespace/]name``."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def ref(self) -> str:
        """``[namespace/]name:number``, which always means this version."""
        return f"{self.full_name}:{self.number}"

    @property
    def size_bytes(self) -> int:
        return sum(file.size for file in self.files.values())


def read_versions(conn: sa.Connection, *conditions: sa.ColumnElement[bool]) -> list[Version]:
    """Return the versions, removed ones too, that fit ``conditions``, by name and number."""
    order = (versions.c.namespace, versions.c.name, versions.c.number)
    rows = conn.execute(sa.select(versions).where(*conditions).order_by(*order)).all()
    ids = [row.id for row in rows]
    files: dict[int, dict[str, FileRef]] = {identifier: {} for identifier in ids}
    inputs: dict[int, list[str]] = {identifier: [] for identifier in ids}
    for row in _rows_of(conn, version_files, ids):
        files[row.version_id][row.filename] = FileRef(row.digest, row.size)
    for row in _rows_of(conn, lineage, ids):
        inputs[row.version_id].append(row.input)
    named = _aliases(conn, {(row.kind, row.namespace, row.name) for row in rows})
    return [
        Version(
            id=row.id,
            kind=row.kind,
            namespace=row.namespace,
            name=row.name,
            number=row.number,
            digest=row.digest,
            manifest=row.manifest,
            files=dict(sorted(files[row.id].items())),
            owner=row.owner,
            created_at=row.created_at,
            job_id=row.job_id,
            aliases=tuple(sorted(named.get((row.kind, row.namespace, row.name, row.number), ()))),
            inputs=tuple(sorted(inputs[row.id])),
            removed_at=row.removed_at,
        )
        for row in rows
    ]


def _rows_of(conn: sa.Connection, table: sa.Table, ids: list[int]) -> list[sa.Row[Any]]:
    """Return the rows of ``table`` that belong to versions ``ids``, few enough per statement."""
    step = 500
    return [
        row
        for start in range(0, len(ids), step)
        for row in conn.execute(
            sa.select(table).where(table.c.version_id.in_(ids[start : start + step]))
        )
    ]


def _aliases(
    conn: sa.Connection, names: set[tuple[str, str, str]]
) -> dict[tuple[str, str, str, int], list[str]]:
    query = sa.select(aliases).where(aliases.c.kind.in_({kind for kind, _, _ in names}))
    if len(names) == 1:  # the common case, on the path of every request
        query = query.where(aliases.c.name.in_({name for _, _, name in names}))
    found: dict[tuple[str, str, str, int], list[str]] = {}
    for row in conn.execute(query):
        found.setdefault((row.kind, row.namespace, row.name, row.number), []).append(row.alias)
    return found
