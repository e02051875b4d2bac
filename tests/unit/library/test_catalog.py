"""The catalog: complete, consistent, and honest about what fits."""

from __future__ import annotations

from typing import get_args

import pytest

from llmos.library.catalog import CATALOG, CatalogEntry, find
from llmos.library.jobs import check_pull
from llmos.library.manifest import Task


def test_every_task_has_models_and_names_are_unique() -> None:
    assert len(CATALOG) >= 40
    assert {entry.task for entry in CATALOG} == set(get_args(Task)) - {"rate", "parse"}
    assert (
        len({entry.name for entry in CATALOG})
        == len({entry.repo for entry in CATALOG})
        == len(CATALOG)
    )


@pytest.mark.parametrize("entry", CATALOG, ids=lambda entry: entry.name)
def test_an_entry_can_be_pulled_by_name_and_says_all(entry: CatalogEntry) -> None:
    assert check_pull({"repo": entry.name}) == {
        "repo": entry.repo,
        "name": entry.name,
        "revision": "main",
    }
    assert entry.license
    assert entry.languages
    assert entry.summary
    assert 1.9 < entry.download_bytes / entry.parameters < 4.5


def test_it_fits_where_there_is_room_for_weights_and_work() -> None:
    entry = find("qwen2.5-0.5b")
    assert entry is not None
    assert entry.fits(entry.memory_bytes)
    assert not entry.fits(entry.memory_bytes - 1)
    assert entry.memory_bytes > entry.download_bytes


def test_entries_are_found_by_name_or_repository_in_any_case() -> None:
    assert find("QWEN3-0.6B") == find("qwen/qwen3-0.6b") is not None
    assert find("nope") is None
