"""Statistics: counted by shards they are those of the whole, in any order; quantiles are near."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.datasets import stats as stats_module
from llmos.data.datasets.stats import Stats, count_duplicates, row_hash

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ROW = st.fixed_dictionaries(
    {"id": TEXT},
    optional={"text": TEXT, "label": st.sampled_from("ab"), "n": st.integers(-9, 9)},
)


def counted(rows: list[dict[str, Any]]) -> Stats:
    stats = Stats()
    for row in rows:
        stats.count(row)
    return stats


@given(rows=st.lists(ROW, max_size=30), cut=st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_parts_add_up_in_any_order(rows: list[dict[str, Any]], cut: int) -> None:
    whole = counted(rows).to_dict()
    for parts in ((rows[:cut], rows[cut:]), (rows[cut:], rows[:cut])):
        total = Stats()
        for part in parts:
            total.add(counted(part))
        assert total.to_dict() == whole


def test_quantiles_are_within_two_in_a_hundred() -> None:
    draw = random.Random(0)
    lengths = [draw.randint(0, 5000) for _ in range(2000)]
    told = counted([{"id": "", "text": "x" * n} for n in lengths]).to_dict()["fields"]["text"]
    exact = statistics.quantiles(lengths, n=20, method="inclusive")
    assert abs(told["length"]["p50"] - exact[9]) <= 0.02 * exact[9] + 1
    assert abs(told["length"]["p95"] - exact[18]) <= 0.02 * exact[18] + 1
    assert told["characters"] == sum(lengths)


def test_scripts_words_values_and_numbers_are_counted() -> None:
    rows = [
        {"id": "1", "text": "你好 world", "label": "good", "n": 3},
        {"id": "2", "text": "Hello, big world", "label": "good", "n": -1.5},
        {"id": "3", "label": "bad", "turns": [{"role": "user", "content": "Hi"}]},
    ]
    fields = counted(rows).to_dict()["fields"]
    assert fields["text"]["han"] == 2 and fields["text"]["latin"] == 5 + 13
    assert fields["text"]["words"] == 2 + 1 + 3
    assert fields["label"]["values"] == {"good": 2, "bad": 1}
    assert (fields["n"]["least"], fields["n"]["most"]) == (-1.5, 3)
    assert fields["turns"]["characters"] == 2 and "values" not in fields["turns"]


def test_a_field_of_many_values_is_not_told_by_value() -> None:
    rows = [{"id": str(n), "name": f"n{n}"} for n in range(100)]
    total = counted(rows[:40])
    total.add(counted(rows[40:]))
    assert "values" not in total.to_dict()["fields"]["name"]


def test_rows_hash_by_their_fields_alone() -> None:
    one = {"id": "1", "text": "a", "label": "b", "meta": {"x": 1}}
    assert row_hash(one) == row_hash({"id": "2", "label": "b", "text": "a"})
    assert row_hash(one) != row_hash({"id": "1", "text": "a"})


def test_duplicates_are_counted_in_passes_as_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = [[1, 2, 3, 2**64 - 1], [], [3, 2**64 - 1, 3, 8]]
    files = [tmp_path / str(number) for number in range(len(hashes))]
    for file, some in zip(files, hashes, strict=True):
        file.write_bytes(b"".join(one.to_bytes(8, "little") for one in some))
    assert count_duplicates(files) == 3
    monkeypatch.setattr(stats_module, "HASHES_A_PASS", 2)
    assert count_duplicates(files) == 3
    assert count_duplicates([]) == 0


def test_items_of_lists_of_whole_numbers_are_counted() -> None:
    stats = Stats()
    for ids in ([1, 2, 3], [], [4], ["a"]):
        stats.count({"id": "x", "input_ids": ids})
    both = Stats()
    both.add(stats)
    both.add(stats)
    assert both.to_dict()["fields"]["input_ids"]["items"] == 8
