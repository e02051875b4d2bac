"""Both databases and both blob stores, so that one test says what the twins share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase


@pytest.fixture(params=["file", "memory"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    database = MemoryDatabase() if request.param == "memory" else Database.open(tmp_path / "a.db")
    yield database
    database.close()


@pytest.fixture(params=["file", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return MemoryBlobStore() if request.param == "memory" else BlobStore(tmp_path / "blobs")
