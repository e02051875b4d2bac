"""Starter models: added once, left removed, upgraded, and answering their tasks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.library.conftest import MANIFEST

from llmos.library.artifacts import Library
from llmos.library.starter import TASKS, install_starter_models
from llmos.security.actors import SYSTEM
from llmos.storage.blobs import BlobStore
from llmos.types import NewVersion


@pytest.fixture
def packaged(tmp_path: Path) -> Path:
    for name in ("starter-chat", "starter-translate"):
        directory = tmp_path / "packaged" / name
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(name)
        (directory / "manifest.json").write_text(json.dumps(MANIFEST))
    return tmp_path / "packaged"


def test_the_first_start_adds_every_model(
    library: Library, blobs: BlobStore, packaged: Path
) -> None:
    added = install_starter_models(library, blobs, packaged)
    assert [version.ref for version in added] == ["starter-chat:1", "starter-translate:1"]
    assert {version.owner for version in added} == {"llmos"}
    assert set(added[0].files) == {"config.json"}
    assert library.resolve("machine_translation").ref == "starter-translate:1"
    assert library.task_defaults() == {
        "chat": "starter-chat",
        "machine_translation": "starter-translate",
    }


def test_later_starts_add_nothing(library: Library, blobs: BlobStore, packaged: Path) -> None:
    install_starter_models(library, blobs, packaged)
    assert install_starter_models(library, blobs, packaged) == []
    assert len(library.list()) == 2


def test_a_removed_model_stays_removed_and_a_chosen_default_stays_chosen(
    library: Library, blobs: BlobStore, packaged: Path
) -> None:
    install_starter_models(library, blobs, packaged)
    library.set_task_default("chat", "starter-translate", SYSTEM)
    library.remove("starter-chat", SYSTEM)
    assert install_starter_models(library, blobs, packaged) == []
    assert library.task_defaults()["chat"] == "starter-translate"


def test_a_changed_model_is_a_new_version(
    library: Library, blobs: BlobStore, packaged: Path
) -> None:
    install_starter_models(library, blobs, packaged)
    (packaged / "starter-chat" / "config.json").write_text("better")
    assert [version.ref for version in install_starter_models(library, blobs, packaged)] == [
        "starter-chat:2"
    ]
    assert library.resolve("chat").ref == "starter-chat:2"


def test_a_users_model_never_becomes_a_tasks_default_by_its_name(
    library: Library, new_version: Callable[..., NewVersion], blobs: BlobStore, tmp_path: Path
) -> None:
    library.add(new_version("starter-translate"), "bob")
    (tmp_path / "empty").mkdir()
    install_starter_models(library, blobs, tmp_path / "empty")
    assert library.task_defaults() == {}


def test_a_package_without_models_is_no_error(
    library: Library, blobs: BlobStore, tmp_path: Path
) -> None:
    assert install_starter_models(library, blobs, tmp_path / "none") == []


def test_every_starter_model_has_its_task() -> None:
    assert set(TASKS.values()) == {"chat", "machine_translation", "sentiment", "entities"}
