"""Which version of each model is open to a choice, and that every change shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.library.artifacts import Library
from llmos.library.deployed import TaskDefault, deployed, read_defaults, read_names, revision
from llmos.security.actors import SYSTEM, Actor
from llmos.storage.memory import MemoryBlobStore, MemoryDatabase
from llmos.types import NewVersion

ADMIN = Actor("k0", "admin", "admin")
Add = Callable[..., None]


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def library(database: MemoryDatabase, tmp_path: Path) -> Library:
    clock = itertools.count(1.0)
    return Library(database, MemoryBlobStore(), lambda: next(clock), tmp_path)


@pytest.fixture
def add(library: Library) -> Add:
    blobs = MemoryBlobStore()
    number = itertools.count()

    def add(name: str) -> None:
        manifest = {"task": "chat", "engine": "echo", "architecture": "e", "model_type": "e"}
        files = {"config.json": blobs.put_bytes(str(next(number)).encode())}
        library.add(NewVersion("model", name, files, manifest), "admin")

    return add


def refs(database: MemoryDatabase) -> list[str]:
    return [version.ref for version in database.read_sync(deployed)]


def test_the_version_in_production_counts_and_else_the_newest(
    database: MemoryDatabase, library: Library, add: Add
) -> None:
    assert refs(database) == []
    for name in ("a", "a", "b", "b", "team/a"):
        add(name)
    assert refs(database) == ["a:2", "b:2", "team/a:1"]
    library.set_alias("a:1", "production", ADMIN)
    library.set_alias("b:1", "candidate", ADMIN)
    assert refs(database) == ["a:1", "b:2", "team/a:1"]
    library.remove("a:1", ADMIN)
    assert refs(database) == ["a:2", "b:2", "team/a:1"]
    library.remove("a:2", ADMIN)
    assert refs(database) == ["b:2", "team/a:1"]
    assert database.read_sync(read_names) == {"b"}


def test_every_change_that_matters_makes_another_revision(
    database: MemoryDatabase, library: Library, add: Add
) -> None:
    seen = [database.read_sync(revision)]
    for change in (
        lambda: add("a"),
        lambda: add("a"),
        lambda: library.set_alias("a:1", "production", ADMIN),
        lambda: library.set_alias("a:2", "production", ADMIN),
        lambda: library.set_task_default("t", "a", ADMIN),
        lambda: library.set_task_default("t", "a:1", ADMIN),
        lambda: library.remove("a:2", ADMIN),
    ):
        change()
        assert database.read_sync(revision) not in seen
        seen.append(database.read_sync(revision))
        assert database.read_sync(revision) == seen[-1]


def test_a_default_that_llmos_set_is_not_a_choice(
    database: MemoryDatabase, library: Library, add: Add
) -> None:
    add("a")
    library.set_task_default("chat", "a", SYSTEM)
    library.set_task_default("poems", "a", ADMIN)
    found = database.read_sync(read_defaults)
    assert found == {"chat": TaskDefault("a", False), "poems": TaskDefault("a", True)}
