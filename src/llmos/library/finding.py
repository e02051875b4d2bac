"""Finding the version that a name means, and saying what is wrong when there is none."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass

import sqlalchemy as sa

from llmos.errors import ConflictError, DatasetNotFoundError, ModelNotFoundError
from llmos.library import catalog
from llmos.library.refs import ModelRef
from llmos.library.versions import LATEST, Version, read_versions
from llmos.storage.schema import aliases, lineage, task_defaults, versions


@dataclass(frozen=True, slots=True)
class _Entry:
    """What finding needs of one version."""

    id: int
    number: int
    removed_at: float | None


def resolve(conn: sa.Connection, ref: ModelRef, kind: str | None) -> Version:
    """Return the version ``ref`` means: of the artifact so named, else of the task's default.

    Without a ``kind`` that is a model or an adapter: names are shared, one of them has it.

    Raises:
        ModelNotFoundError: there is none.
        ConflictError: ``ref`` has a version and an alias that mean different ones.
    """
    adapters = _entries(conn, ref, "adapter") if kind is None else []
    kind = kind or ("adapter" if _live(adapters) else "model")
    bare = ref == ModelRef("", ref.name)
    if bare and kind == "model" and not _live(_entries(conn, ref, kind)):
        query = sa.select(task_defaults.c.model).where(task_defaults.c.task == ref.name)
        default = conn.execute(query).scalar()
        if default is not None:
            return find(conn, ModelRef.parse(default), kind)
    was_adapter = adapters and not _entries(conn, ref, kind)
    return find(conn, ref, "adapter" if was_adapter else kind)


def find(conn: sa.Connection, ref: ModelRef, kind: str) -> Version:
    """Return the version of the artifact so named; task names do not count.

    Raises:
        ModelNotFoundError: there is none, or it was removed; DatasetNotFoundError of datasets.
        ConflictError: ``ref`` has a version and an alias that mean different ones.
    """
    entries = _entries(conn, ref, kind)
    live = _live(entries)
    if kind == "dataset":
        return _find_dataset(conn, ref, live)
    if not entries:
        raise ModelNotFoundError(_unknown(conn, ref, kind))
    named = _aliases(conn, ref, kind)
    if ref.version is not None:
        found = next((entry for entry in entries if entry.number == ref.version), None)
        if found is None or found.removed_at is not None:
            raise ModelNotFoundError(_no_version(ref, found, live))
        if ref.alias is not None and named.get(ref.alias) != ref.version:
            raise ConflictError(
                f"{ref.full_name}:{ref.version} is not @{ref.alias}: give the version or the alias"
            )
        return _version(conn, found)
    if not live:
        raise ModelNotFoundError(_all_removed(ref, entries[-1]))
    number = named.get(ref.alias or LATEST)
    if number is None:
        raise ModelNotFoundError(
            f"{ref.full_name} has no alias {ref.alias!r}: it has {_listed(sorted(named))}",
            param="model",
        )
    return _version(conn, next(entry for entry in live if entry.number == number))


def _find_dataset(conn: sa.Connection, ref: ModelRef, live: list[_Entry]) -> Version:
    """As `find`. An error tells no numbers, aliases or days: the dataset may be somebody else's."""
    named = _aliases(conn, ref, "dataset")
    number = ref.version if ref.version is not None else named.get(ref.alias or LATEST)
    found = next((entry for entry in live if entry.number == number), None)
    if found is None or (ref.alias is not None and named.get(ref.alias) != number):
        raise DatasetNotFoundError(
            f"there is no dataset {str(ref)!r}: `llmos data ls` shows those there are"
        )
    return _version(conn, found)


def made_from(conn: sa.Connection, source: str) -> list[Version]:
    """Return the versions, not removed, whose lineage has this ref or digest."""
    ids = conn.execute(sa.select(lineage.c.version_id).where(lineage.c.input == source)).scalars()
    if not (found := ids.all()):
        return []
    return read_versions(conn, versions.c.id.in_(found), versions.c.removed_at.is_(None))


def _entries(conn: sa.Connection, ref: ModelRef, kind: str) -> list[_Entry]:
    query = sa.select(versions.c.id, versions.c.number, versions.c.removed_at)
    rows = conn.execute(query.where(*_named(versions, ref, kind)).order_by(versions.c.number))
    return [_Entry(*row) for row in rows]


def _live(entries: list[_Entry]) -> list[_Entry]:
    return [entry for entry in entries if entry.removed_at is None]


def _aliases(conn: sa.Connection, ref: ModelRef, kind: str) -> dict[str, int]:
    """Return every alias of the name and the version it means."""
    query = sa.select(aliases.c.alias, aliases.c.number).where(*_named(aliases, ref, kind))
    return {row.alias: row.number for row in conn.execute(query)}


def _named(table: sa.Table, ref: ModelRef, kind: str) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.kind == kind, table.c.namespace == ref.namespace, table.c.name == ref.name)


def _version(conn: sa.Connection, entry: _Entry) -> Version:
    return read_versions(conn, versions.c.id == entry.id)[0]


def _unknown(conn: sa.Connection, ref: ModelRef, kind: str) -> str:
    other = {"model": "adapter", "adapter": "model"}.get(kind)
    if other is not None and _live(_entries(conn, ref, other)):
        return f"{ref.full_name!r} is of kind {other}, where a name of kind {kind} is wanted"
    kinds = ("model", "adapter") if kind == "model" else (kind,)
    query = sa.select(versions.c.namespace, versions.c.name).distinct()
    live = conn.execute(query.where(versions.c.kind.in_(kinds), versions.c.removed_at.is_(None)))
    names = {ModelRef(row.namespace, row.name).full_name for row in live}
    if kind == "model":
        names |= set(conn.execute(sa.select(task_defaults.c.task)).scalars())
    text = f"there is no {kind} {ref.full_name!r}"
    folded = {name.lower(): name for name in sorted(names)}
    if near := difflib.get_close_matches(ref.full_name.lower(), folded, n=1, cutoff=0.6):
        return f"{text}: did you mean {folded[near[0]]!r}? `llmos list` shows those there are"
    if kind == "model" and (entry := catalog.find(ref.full_name)) is not None:
        return f"{text} here yet: `llmos pull {entry.name}` gets it"
    return f"{text}: `llmos list` shows those there are"


def _no_version(ref: ModelRef, removed: _Entry | None, live: list[_Entry]) -> str:
    numbers = _listed([str(entry.number) for entry in live]) if live else "none left"
    if removed is not None:
        gone = f"{ref.full_name}:{removed.number}"
        return f"{gone} was removed on {_day(removed)}: {ref.full_name} has {numbers}"
    return f"{ref.full_name} has no version {ref.version}: it has {numbers}"


def _all_removed(ref: ModelRef, newest: _Entry) -> str:
    again = "train, import or pull it again, or see `llmos list`"
    return f"{ref.full_name} was removed on {_day(newest)}: {again}"


def _day(entry: _Entry) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(entry.removed_at))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
