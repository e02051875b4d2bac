"""The records that an operator takes one by one, and what it has not answered."""

from __future__ import annotations

from collections.abc import Iterator

from llmos.data.pipeline.record import Record, Row


class Feed:
    """Hands records to an operator, and knows which it has last taken and not answered."""

    def __init__(self, records: list[Record]) -> None:
        self._records = iter(records)
        self.before: Row = {}
        self.current: Record | None = None
        self.is_answered = True
        self.is_over = False
        self.left_out: list[Record] = []

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        self._settle()
        try:
            record = next(self._records)
        except StopIteration:
            self.is_over = True
            raise
        self.current, self.is_answered = record, False
        self.before = dict(record.fields)
        return record

    def end(self) -> None:
        """The operator is done: what it did not take is left out."""
        self._settle()
        self.left_out.extend(self._records)
        self.is_over = True

    def was_changed(self, record: Record) -> bool:
        """Whether a yielded record has other fields than when it was taken."""
        return record is self.current and record.fields != self.before

    def _settle(self) -> None:
        if self.current is not None and not self.is_answered:
            self.left_out.append(self.current)
        self.current, self.is_answered = None, True
