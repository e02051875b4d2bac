"""Statements that run often: compiled once, then run by the database's own driver.

What SQLAlchemy does around a statement, each time, takes several times what SQLite takes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Delete, Dialect, Insert, Select, Update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

Convert = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A statement in one dialect: its text, and what to do to values on the way in and out."""

    text: str
    names: tuple[str, ...]
    is_positional: bool
    fixed: dict[str, Any]
    """Values that are part of the statement itself."""
    inward: tuple[tuple[str, Convert], ...]
    columns: tuple[str, ...]
    outward: tuple[tuple[str, Convert], ...]


class Statement:
    """One statement, to be run with values by name.

    Columns' types convert values as they do in SQLAlchemy; columns' defaults do not apply, so
    every value is given. Lists in place of a value (``IN``) are not expanded.

    Args:
        sets: columns that an insert or update gives values to, under their own names, beside
            those in ``source`` itself.
    """

    def __init__(
        self, source: Select[Any] | Insert | Update | Delete, *, sets: Sequence[str] = ()
    ) -> None:
        self._source = source
        self._sets = list(sets)
        self._compiled: dict[str, _Compiled] = {}

    def run(
        self, connection: Connection, values: Mapping[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Run it in the transaction of ``connection``; return its rows, if it has any, by column.

        Raises:
            sqlalchemy.exc.DBAPIError: as `Connection.execute` would.
        """
        dialect = connection.dialect
        compiled = self._compiled.get(dialect.name) or self._compile(dialect)
        given = {**compiled.fixed, **values} if values else dict(compiled.fixed)
        for name, convert in compiled.inward:
            given[name] = convert(given[name])
        bound = [given[name] for name in compiled.names] if compiled.is_positional else given
        if not connection.in_transaction():
            connection.begin()
        driver: Any = connection.connection.driver_connection
        try:
            cursor = driver.execute(compiled.text, bound)
            found = cursor.fetchall() if cursor.description else ()
        except dialect.loaded_dbapi.Error as error:
            base = dialect.loaded_dbapi.Error
            raise DBAPIError.instance(compiled.text, bound, error, base, dialect=dialect) from error
        rows = [dict(zip(compiled.columns, row, strict=True)) for row in found]
        for row in rows:
            for name, convert in compiled.outward:
                row[name] = convert(row[name])
        return rows

    def _compile(self, dialect: Dialect) -> _Compiled:
        compiled = self._source.compile(dialect=dialect, column_keys=self._sets or None)
        assert isinstance(compiled, SQLCompiler)
        types = {name: bind.type for bind, name in compiled.bind_names.items()}
        returned = {str(key): column for key, column in self._source.exported_columns.items()}
        self._compiled[dialect.name] = made = _Compiled(
            text=compiled.string,
            names=tuple(compiled.positiontup or types),
            is_positional=compiled.positional,
            fixed={name: value for name, value in compiled.params.items() if value is not None},
            inward=_converters(types, lambda kind: kind.bind_processor(dialect), dialect),
            columns=tuple(returned),
            outward=_converters(
                {name: column.type for name, column in returned.items()},
                lambda kind: kind.result_processor(dialect, None),
                dialect,
            ),
        )
        return made


def _converters(
    types: Mapping[str, TypeEngine[Any]],
    converter: Callable[[TypeEngine[Any]], Convert | None],
    dialect: Dialect,
) -> tuple[tuple[str, Convert], ...]:
    """Return what converts the values of each name whose type needs it."""
    found = ((name, converter(kind.dialect_impl(dialect))) for name, kind in types.items())
    return tuple((name, convert) for name, convert in found if convert is not None)
