"""Rows as they are shown: long things are cut, and no row is larger than it may be."""

from __future__ import annotations

import msgspec

from llmos.data.datasets.publishing import HEAD_CHARS, HEAD_ROW_BYTES, cut


def test_long_texts_and_lists_are_cut() -> None:
    row = {"id": "a", "text": "长" * 3000, "meta": {"tags": list(range(99))}}
    shown = cut(row)
    assert shown["text"] == "长" * HEAD_CHARS + "…"
    assert shown["meta"] == {"tags": list(range(50))}


def test_of_a_row_with_too_many_names_only_its_size_is_told() -> None:
    shown = cut({"id": "a", "meta": {str(number): number for number in range(100_000)}})
    assert shown["id"] == "a" and "too many to show" in shown["…"]
    assert len(msgspec.json.encode(shown)) < HEAD_ROW_BYTES
