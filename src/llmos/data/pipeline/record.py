"""A record on its way through a pipeline: an id, fields of plain JSON values, notes about it.

What training makes of a finished record is `llmos.data.record`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmos.errors import DataError

ID, META, TEXT = "id", "meta", "text"
Row = dict[str, Any]


@dataclass(slots=True)
class Record:
    """One record. An operator changes it in place, or sets why it is to go.

    Attributes:
        id: the same from its source through every pipeline.
        fields: its values by name; most have a ``text``.
        meta: what operators note about it, which is kept beside its fields.
        dropped_reason: why it is dropped, None where it is kept. What stands before the first
            colon is counted as one reason: "too short: 3 characters".
    """

    id: str
    fields: Row
    meta: Row = field(default_factory=dict)
    dropped_reason: str | None = None

    @classmethod
    def of_row(cls, row: Row) -> Record:
        """Make a record of a dataset's row."""
        fields = {name: value for name, value in row.items() if name not in (ID, META)}
        meta = row.get(META)
        return cls(str(row[ID]), fields, dict(meta) if isinstance(meta, dict) else {})

    def to_row(self) -> Row:
        """Return it as a dataset's row: its id first, its notes last."""
        row = {ID: self.id, **self.fields}
        return {**row, META: self.meta} if self.meta else row

    def text(self, name: str = TEXT) -> str:
        """Return the text of a field, of messages that of all, a line between them.

        Raises:
            DataError: there is none.
        """
        return "\n".join(self.texts(name))

    def texts(self, name: str = TEXT) -> list[str]:
        """Return the text of a field, of messages that of each.

        Raises:
            DataError: there is none.
        """
        value = self.fields.get(name)
        if isinstance(value, str):
            return [value]
        if isinstance(value, list):
            return [turn["content"] for turn in value if _has_content(turn)]
        raise self._no_text(name)

    def change_text(self, name: str, change: Callable[[str], str]) -> None:
        """Put the changed text of a field in its place, of messages that of each.

        Raises:
            DataError: there is none.
        """
        value = self.fields.get(name)
        if isinstance(value, str):
            self.fields[name] = change(value)
        elif isinstance(value, list):
            self.fields[name] = [
                turn | {"content": change(turn["content"])} if _has_content(turn) else turn
                for turn in value
            ]
        else:
            raise self._no_text(name)

    def _no_text(self, name: str) -> DataError:
        has = ", ".join(sorted(self.fields)) or "nothing"
        return DataError(f"there is no text in {name!r}, only {has}: set the operator's `field`")


def _has_content(turn: Any) -> bool:
    return isinstance(turn, dict) and isinstance(turn.get("content"), str)
