"""The library: numbers rise and never return, aliases move, names resolve, tombstones speak."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmos.errors import (
    ConflictError,
    CorruptBlobError,
    InvalidModelError,
    InvalidNameError,
    ModelNotFoundError,
    PermissionDeniedError,
)
from llmos.library.artifacts import Library
from llmos.library.versions import Version
from llmos.security.actors import SYSTEM, Actor
from llmos.security.audit import list_events, verify
from llmos.storage.blobs import BlobStore
from llmos.storage.memory import MemoryDatabase
from llmos.types import NewVersion

ALICE = Actor("k1", "alice", "user")
BOB = Actor("k2", "bob", "user")
ADMIN = Actor("k3", "admin", "admin")
Make = Callable[..., NewVersion]


@pytest.fixture
def add(library: Library, new_version: Make) -> Callable[..., Version]:
    return lambda name, content="x", **manifest: library.add(
        new_version(name, content, **manifest), owner="alice", actor=ALICE
    )


Add = Callable[..., Version]


def test_versions_of_a_name_are_numbered_and_latest_moves(library: Library, add: Add) -> None:
    first, second = add("a", "1"), add("a", "2")
    assert (first.ref, second.ref) == ("a:1", "a:2")
    assert library.resolve("a") == second
    assert library.resolve("a").aliases == ("latest",)
    assert library.resolve("a:1").aliases == ()
    assert library.resolve("a:1").files == first.files


def test_a_namespace_is_another_name(library: Library, add: Add) -> None:
    add("a"), add("team/a")
    assert library.resolve("team/a").ref == "team/a:1"
    assert library.resolve("team/a").namespace == "team"
    assert [version.ref for version in library.list()] == ["a:1", "team/a:1"]


def test_a_version_keeps_all_it_was_committed_with(
    library: Library, db: MemoryDatabase, new_version: Make
) -> None:
    new = NewVersion(
        "model", "a", new_version("a").files, new_version("a").manifest, ("b:1", "b:1", "c:2")
    )
    made = db.write_sync(lambda conn: library.commit(conn, new, "bob", None, 5.0, "k9"))
    found = library.resolve("a")
    assert found == made
    assert (found.owner, found.created_at, found.inputs) == ("bob", 5.0, ("b:1", "c:2"))
    assert found.size_bytes == 1
    event = list_events(db)[0]
    assert (event.actor, event.action, event.object) == ("k9", "models.create", "a:1")


def test_the_digest_covers_files_and_what_changes_outputs(add: Add) -> None:
    base = add("a", "1")
    assert add("b", "1").digest == base.digest
    assert add("b", "1", description="other words", metrics={"bleu": 1}).digest == base.digest
    assert add("b", "2").digest != base.digest
    for change in ({"chat_template": "x"}, {"eos_ids": [1]}, {"generation": {"top_p": 0.5}}):
        assert add("b", "1", **change).digest != base.digest


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/../b", "a:1", "a@x", "a/b/c"])
def test_a_bad_name_is_refused(add: Add, library: Library, name: str) -> None:
    with pytest.raises(InvalidNameError):
        add(name)
    assert library.list() == []


def test_a_bad_version_leaves_nothing(
    library: Library, new_version: Make, db: MemoryDatabase
) -> None:
    good = new_version("a")
    bad = [
        NewVersion("model", "a", {}, good.manifest),
        NewVersion("model", "a", {"../x": good.files["config.json"]}, good.manifest),
        NewVersion("model", "a", good.files, {"task": "chat"}),
        NewVersion("model", "a", good.files, good.manifest | {"task": "fly"}),
        NewVersion("model", "a", good.files, good.manifest | {"eos_ids": "2"}),
    ]
    for new in bad:
        with pytest.raises(InvalidModelError):
            library.add(new, "alice")
    assert library.list() == []
    assert list_events(db) == []


def test_a_removed_number_never_returns(library: Library, add: Add, db: MemoryDatabase) -> None:
    add("a", "1"), add("a", "2")
    removed = library.remove("a", ALICE)
    assert (removed.ref, removed.aliases) == ("a:2", ())
    assert removed.removed_at == 1_700_000_000.0
    assert library.resolve("a").ref == "a:1"
    with pytest.raises(ModelNotFoundError, match=r"a:2 was removed on 2023-11-14: a has 1$"):
        library.resolve("a:2")
    with pytest.raises(ModelNotFoundError):
        library.remove("a:2", ALICE)
    assert add("a", "3").ref == "a:3"
    assert [version.number for version in library.versions("a")] == [1, 2, 3]
    assert verify(db) == 4


def test_when_all_are_removed_the_name_says_so(library: Library, add: Add) -> None:
    add("a")
    library.remove("a", ALICE)
    with pytest.raises(
        ModelNotFoundError, match="a was removed on 2023-11-14: train, import or pull"
    ):
        library.resolve("a")
    assert library.list() == []
    assert add("a").number == 2


def test_removing_an_older_version_leaves_latest(library: Library, add: Add) -> None:
    add("a", "1"), add("a", "2")
    library.remove("a:1", ALICE)
    assert library.resolve("a").ref == "a:2"


def test_aliases_move_and_go_with_their_version(library: Library, add: Add) -> None:
    add("a", "1"), add("a", "2")
    assert library.set_alias("a:1", "production", ALICE).aliases == ("production",)
    assert library.resolve("a@production").ref == "a:1"
    assert library.set_alias("a", "production", ALICE).aliases == ("latest", "production")
    assert library.resolve("a:2@production").ref == "a:2"
    with pytest.raises(ConflictError, match="a:1 is not @production"):
        library.resolve("a:1@production")
    library.remove("a:2", ALICE)
    with pytest.raises(ModelNotFoundError, match="a has no alias 'production': it has latest"):
        library.resolve("a@production")


@pytest.mark.parametrize("alias", ["", "latest", "a/b", "..", "x y", "a:1"])
def test_a_bad_alias_is_refused(library: Library, add: Add, alias: str) -> None:
    add("a")
    with pytest.raises(InvalidNameError):
        library.set_alias("a", alias, ALICE)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("start-chat", "did you mean 'starter-chat'"),
        ("Starter-Chat", "did you mean 'starter-chat'"),
        ("sentimnt", "did you mean 'sentiment'"),
        ("starter-chat:9", "starter-chat has no version 9: it has 1"),
        ("starter-chat@prod", "starter-chat has no alias 'prod': it has latest"),
        ("qwen3-0.6b", "`llmos pull qwen3-0.6b` gets it"),
        ("Qwen/Qwen3-0.6B", "`llmos pull qwen3-0.6b` gets it"),
        ("zzz", "there is no model 'zzz': `llmos list` shows those there are"),
    ],
)
def test_an_unknown_name_says_what_is_near(
    library: Library, add: Add, asked: str, said: str
) -> None:
    add("starter-chat")
    library.set_task_default("sentiment", "starter-chat", SYSTEM)
    with pytest.raises(ModelNotFoundError) as caught:
        library.resolve(asked)
    assert said in caught.value.message


def test_a_task_answers_with_its_default_unless_a_model_has_its_name(
    library: Library, add: Add
) -> None:
    add("starter-sentiment", "1"), add("better", "2")
    library.set_task_default("sentiment", "starter-sentiment", SYSTEM)
    assert library.resolve("sentiment").ref == "starter-sentiment:1"
    library.set_task_default("sentiment", "better:1", ALICE)
    assert library.resolve("sentiment").ref == "better:1"
    assert library.task_defaults() == {"sentiment": "better:1"}
    add("sentiment", "3")
    assert library.resolve("sentiment").ref == "sentiment:1"
    library.remove("sentiment", ALICE)
    assert library.resolve("sentiment").ref == "better:1"
    with pytest.raises(ModelNotFoundError):
        library.set_task_default("sentiment", "nope", ALICE)


def test_a_model_a_task_answers_with_cannot_go(library: Library, add: Add) -> None:
    add("a", "1"), add("a", "2")
    library.set_task_default("sentiment", "a", SYSTEM)
    library.remove("a:2", ALICE)
    assert library.resolve("sentiment").ref == "a:1"
    with pytest.raises(ConflictError, match=r"first, with `llmos default sentiment MODEL`$"):
        library.remove("a:1", ALICE)
    add("a", "3")
    library.set_task_default("sentiment", "a:1", SYSTEM)
    with pytest.raises(ConflictError):
        library.remove("a:1", ALICE)


def test_removing_by_a_task_name_is_refused(library: Library, add: Add) -> None:
    add("a")
    library.set_task_default("sentiment", "a", SYSTEM)
    with pytest.raises(ModelNotFoundError):
        library.remove("sentiment", ALICE)


# -- whose name it is ----------------------------------------------------------------------------


def test_nobody_adds_to_anothers_name(library: Library, add: Add, new_version: Make) -> None:
    mine = add("shared", "1")
    refused = r"the name 'shared' belongs to alice: choose another name"
    with pytest.raises(ConflictError, match=refused):
        library.add(new_version("shared", "2"), "bob")
    with pytest.raises(ConflictError, match=refused):
        library.check_name("shared", "bob")
    assert library.resolve("shared") == mine
    library.check_name("shared", "alice")
    library.check_name("bob/shared", "bob")
    library.check_name("shared", "bob", "dataset")
    with pytest.raises(InvalidNameError):
        library.check_name("a b", "bob")


def test_a_starter_models_name_is_not_for_users(library: Library, new_version: Make) -> None:
    library.add(new_version("starter-translate", "1"), "llmos")
    library.set_task_default("machine_translation", "starter-translate", SYSTEM)
    with pytest.raises(ConflictError):
        library.add(new_version("starter-translate", "2"), "bob")
    with pytest.raises(ConflictError, match="'machine_translation' is a task"):
        library.add(new_version("machine_translation", "2"), "bob")
    assert library.resolve("machine_translation").owner == "llmos"


def test_the_admin_and_llmos_add_to_any_name(library: Library, add: Add, new_version: Make) -> None:
    library.add(new_version("starter-chat", "1"), "llmos")
    assert library.add(new_version("starter-chat", "2"), "admin").ref == "starter-chat:2"
    assert library.add(new_version("starter-chat", "3"), "llmos").ref == "starter-chat:3"
    add("mine", "1")
    library.add(new_version("mine", "2"), "admin")
    assert add("mine", "3").ref == "mine:3"


def test_a_name_is_free_once_all_of_it_is_removed(
    library: Library, add: Add, new_version: Make
) -> None:
    add("a")
    library.remove("a", ALICE)
    assert library.add(new_version("a"), "bob").ref == "a:2"
    with pytest.raises(ConflictError):
        add("a")


def test_only_an_owner_or_an_admin_moves_or_removes(library: Library, add: Add) -> None:
    add("a")
    with pytest.raises(PermissionDeniedError):
        library.remove("a", BOB)
    with pytest.raises(PermissionDeniedError):
        library.set_alias("a", "production", BOB)
    assert library.set_alias("a", "production", ADMIN).aliases == ("latest", "production")
    assert library.remove("a", ADMIN).removed_at is not None


def test_anothers_alias_stays_where_it_is(library: Library, add: Add) -> None:
    add("a", "1"), add("a", "2")
    library.set_alias("a:1", "production", ADMIN)
    refused = "@production of a belongs to admin: ask them or an admin to move it first"
    for change in (
        lambda: library.set_alias("a:2", "production", ALICE),
        lambda: library.remove("a:1", ALICE),
    ):
        with pytest.raises(ConflictError, match=refused):
            change()
    assert library.resolve("a@production").ref == "a:1"
    assert library.remove("a:2", ALICE).ref == "a:2"


def test_kinds_do_not_mix(library: Library, add: Add, new_version: Make) -> None:
    add("a")
    library.add(NewVersion("dataset", "a", new_version("a").files, {"rows": 3}), "alice")
    assert library.resolve("a", "dataset").kind == "dataset"
    assert [version.kind for version in library.list("dataset")] == ["dataset"]
    assert library.resolve("a").kind == "model"


def test_a_directory_has_the_files_and_is_verified_once(
    library: Library, add: Add, blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = add("a", "content")
    calls: list[Any] = []
    original = blobs.materialize
    monkeypatch.setattr(blobs, "materialize", lambda *args: calls.append(args) or original(*args))
    for _ in range(3):
        directory = library.directory(version)
    assert (directory / "config.json").read_text() == "content"
    assert directory.parent == library.models_dir
    assert len(calls) == 1


def test_a_damaged_file_is_found_before_it_is_used(
    library: Library, add: Add, blobs: BlobStore
) -> None:
    version = add("a", "content")
    directory = library.directory(version)
    stored = blobs.path(version.files["config.json"].digest)
    stored.chmod(0o600)
    stored.write_text("CONTENT")
    with pytest.raises(CorruptBlobError):
        library.directory(version)
    assert not blobs.has(version.files["config.json"].digest)
    blobs.put_bytes(b"content")
    assert (library.directory(version) / "config.json").read_text() == "content"
    assert directory == library.directory(version)


def test_a_removed_directory_is_laid_out_again(library: Library, add: Add, tmp_path: Path) -> None:
    version = add("a", "content")
    (library.directory(version) / "config.json").unlink()
    assert (library.directory(version) / "config.json").read_text() == "content"


def test_five_hundred_versions_list_in_one_read(
    library: Library, db: MemoryDatabase, new_version: Make
) -> None:
    new = new_version("a")
    db.write_sync(
        lambda conn: [library.commit(conn, new, "o", None, 1.0, "k") for _ in range(501)] and None
    )
    assert len(library.list()) == 501
    assert library.resolve("a").number == 501
