"""Clusters are the connected parts of the graph of who shares a key with whom."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.data.pipeline import clusters
from llmos.data.pipeline.clusters import Clusters, entries_of

KEYS = st.lists(st.lists(st.integers(0, 25), max_size=3), max_size=30)


def parts_of(keys: list[list[int]]) -> list[set[int]]:
    """The connected parts, found the slow way."""
    parts = [{row} for row in range(len(keys))]
    is_done = False
    while not is_done:
        is_done = True
        for one in parts:
            for other in parts:
                mine = {key for row in one for key in keys[row]}
                theirs = {key for row in other for key in keys[row]}
                if one is not other and mine & theirs:
                    one |= other
                    parts.remove(other)
                    is_done = False
                    break
            if not is_done:
                break
    return parts


@given(keys=KEYS, data=st.data())
@settings(max_examples=150, deadline=None)
def test_who_shares_a_key_is_in_one_cluster_and_its_heaviest_stays(
    keys: list[list[int]], data: st.DataObject
) -> None:
    number = len(keys)
    weights = data.draw(st.lists(st.integers(0, 3), min_size=number, max_size=number))
    cut = data.draw(st.integers(0, number))
    entries = entries_of([[key.to_bytes(16, "big") for key in some] for some in keys])
    with TemporaryDirectory() as folder:
        found = Clusters(number, Path(folder))
        firsts = [found.unite(entries[:cut]), found.unite(entries[cut:])]
        found.unite(np.concatenate(firsts))
        found.settle(np.array(weights, np.int64))
        rows = np.arange(number)
        kept, sizes = found.kept(rows).tolist(), found.sizes(rows).tolist()
    parts = parts_of(keys)
    for part in parts:
        stays = min(part, key=lambda row: (-weights[row], row))
        assert {kept[row] for row in part} == {stays}
        assert {sizes[row] for row in part} == {len(part)}
    assert found.count == sum(len(part) > 1 for part in parts)
    assert found.largest == max(map(len, parts), default=0)


def test_a_key_of_all_records_and_a_long_chain_make_one_cluster() -> None:
    number = 5000
    for keys in (
        [[b"a" * 16]] * number,
        [[row.to_bytes(16, "big"), (row + 1).to_bytes(16, "big")] for row in range(number)],
    ):
        found = Clusters(number)
        found.unite(entries_of(keys))
        found.settle(np.zeros(number, np.int64))
        assert (found.count, found.largest) == (1, number)
        assert not found.kept(np.arange(number)).any()


def test_more_records_than_a_block_are_settled_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [[(row % 7).to_bytes(16, "big")] for row in range(50)]
    results = []
    for block in (clusters._BLOCK_ROWS, 8):
        monkeypatch.setattr(clusters, "_BLOCK_ROWS", block)
        found = Clusters(50)
        found.unite(entries_of(keys))
        found.settle(np.arange(50)[::-1] % 11)
        results.append((found.count, found.largest, found.kept(np.arange(50)).tolist()))
    assert results[0] == results[1]
