"""API keys: made, shown once, authenticated, narrowed, expired, revoked; the admin key's file."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmos.errors import AuthenticationError, InvalidRequestError, NotFoundError
from llmos.security.audit import list_events, verify
from llmos.security.tokens import Keys
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import keys as keys_table
from llmos.types import Priority


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def db() -> Iterator[MemoryDatabase]:
    database = MemoryDatabase()
    yield database
    database.close()


@pytest.fixture
def keys(db: MemoryDatabase, clock: Clock) -> Keys:
    return Keys(db, clock)


def test_a_new_key_authenticates_as_what_it_was_made_for(keys: Keys) -> None:
    info, text = keys.create(
        "alice", models=["a"], actions=["generate"], best_priority=Priority.BATCH
    )
    actor = keys.authenticate(text)
    assert (actor.id, actor.owner, actor.role) == (info.id, "alice", "user")
    assert actor.models == frozenset({"a"})
    assert actor.actions == frozenset({"generate"})
    assert actor.best_priority is Priority.BATCH
    assert text == f"llmos_{info.id}_{text.rsplit('_', 1)[1]}"
    assert len(bytes.fromhex(text.rsplit("_", 1)[1])) == 32


def test_the_secret_is_nowhere_in_the_database(keys: Keys, db: MemoryDatabase) -> None:
    _, text = keys.create("alice")
    secret = text.rsplit("_", 1)[1]
    rows = db.read_sync(lambda conn: conn.execute(sa.select(keys_table)).all())
    everything = repr(rows) + repr(keys.list()) + repr(list_events(db))
    assert secret not in everything
    assert bytes.fromhex(secret) not in rows[0].secret_sha256


def test_wrong_texts_are_refused_alike(keys: Keys) -> None:
    info, text = keys.create("alice")
    flipped = text[:-1] + ("0" if text[-1] != "0" else "1")
    wrong = [
        "",
        "x",
        "llmos_",
        flipped,
        text + "0",
        text.upper(),
        f"llmos_{info.id}_",
        "Bearer " + text,
    ]
    wrong += [f"llmos_{'0' * 12}_{'0' * 64}", text.replace(info.id, "0" * 12), "中" * 100, "\0"]
    messages = set()
    for candidate in wrong:
        with pytest.raises(AuthenticationError) as caught:
            keys.authenticate(candidate)
        messages.add(caught.value.message)
    assert len(messages) == 1


def test_a_revoked_key_ends_at_once_and_stays_listed(
    keys: Keys, db: MemoryDatabase, clock: Clock
) -> None:
    info, text = keys.create("alice")
    clock.now += 5
    assert keys.revoke(info.id).revoked_at == clock.now
    with pytest.raises(AuthenticationError):
        keys.authenticate(text)
    clock.now += 5
    assert keys.revoke(info.id).revoked_at == clock.now - 5
    assert [key.id for key in keys.list()] == [info.id]
    assert [event.action for event in list_events(db)] == ["keys.revoke", "keys.create"]
    assert verify(db) == 2


def test_an_expired_key_ends_on_time(keys: Keys, clock: Clock) -> None:
    _, text = keys.create("alice", expires_at=clock.now + 10)
    clock.now += 9.9
    keys.authenticate(text)
    clock.now += 0.1
    with pytest.raises(AuthenticationError):
        keys.authenticate(text)


def test_bad_requests_make_no_key(keys: Keys) -> None:
    with pytest.raises(InvalidRequestError, match="name"):
        keys.create("  ")
    with pytest.raises(InvalidRequestError, match="name"):
        keys.create("a\nb")
    with pytest.raises(InvalidRequestError, match="role"):
        keys.create("a", role="root")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequestError, match="unknown action 'x'"):
        keys.create("a", actions=["generate", "x"])
    with pytest.raises(InvalidRequestError, match="future"):
        keys.create("a", expires_at=1.0)
    assert keys.list() == []


@pytest.mark.parametrize("owner", ["admin", "llmos"])
def test_no_users_key_owns_what_the_admin_or_llmos_owns(keys: Keys, owner: str) -> None:
    for name, given in ((owner, None), ("laptop", owner)):
        with pytest.raises(InvalidRequestError, match=f"a user's key cannot be '{owner}'"):
            keys.create(name, owner=given)
    assert keys.create("laptop", role="admin", owner=owner)[0].owner == owner


def test_revoking_an_unknown_key_says_so(keys: Keys) -> None:
    with pytest.raises(NotFoundError, match="llmos keys"):
        keys.revoke("nope")


def test_the_admin_key_is_made_once_in_a_private_file(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "home" / "admin.key"
    text = keys.ensure_admin_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() == text
    actor = keys.authenticate(text)
    assert (actor.role, actor.owner, actor.actions, actor.models) == ("admin", "admin", None, None)
    assert keys.ensure_admin_key(path) == text
    assert len(keys.list()) == 1
    assert list(path.parent.iterdir()) == [path]


def test_a_widened_file_is_narrowed_again(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    text = keys.ensure_admin_key(path)
    path.chmod(0o644)
    assert keys.ensure_admin_key(path) == text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("content", ["", "garbage", "llmos_" + "0" * 12 + "_" + "0" * 64])
def test_a_file_the_database_does_not_know_is_replaced(
    keys: Keys, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "admin.key"
    path.write_text(content)
    text = keys.ensure_admin_key(path)
    assert keys.authenticate(text).role == "admin"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_in_place_of_the_file_is_refused(keys: Keys, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("x")
    (tmp_path / "admin.key").symlink_to(target)
    with pytest.raises(InvalidRequestError, match="regular file"):
        keys.ensure_admin_key(tmp_path / "admin.key")
    assert target.read_text() == "x"


def test_a_live_key_is_known_by_its_id_with_all_its_limits(keys: Keys, clock: Clock) -> None:
    info, text = keys.create("alice", models=["a"], expires_at=clock.now + 60)
    assert keys.actor_of(info.id) == keys.authenticate(text)
    clock.now += 60
    with pytest.raises(AuthenticationError, match="expired"):
        keys.actor_of(info.id)
    other, _ = keys.create("bob")
    keys.revoke(other.id)
    for key_id in (other.id, "nobody", ""):
        with pytest.raises(AuthenticationError, match="revoked or is unknown"):
            keys.actor_of(key_id)
