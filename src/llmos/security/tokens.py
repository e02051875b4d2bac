"""API keys: ``llmos_<id>_<secret>``, 256 random bits, kept as a SHA-256, shown once.

``authenticate`` looks the key up in the database. The server remembers its answer for a second
(``server.gate.KeyCache``) and forgets it when it revokes a key, so that counts at once. Who may
manage keys is ``policy``'s to say.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from llmos.errors import AuthenticationError, InvalidRequestError, NotFoundError
from llmos.security import audit
from llmos.security.actors import OPERATORS, SYSTEM, Actor, Role
from llmos.security.policy import ACTIONS
from llmos.storage.schema import keys
from llmos.types import Anonymise, Priority

if TYPE_CHECKING:
    from llmos.storage.database import Database

_KEY = re.compile(r"llmos_([0-9a-f]{12})_([0-9a-f]{64})")
_MAX_NAME_CHARS = 128
_REFUSED = "the API key is not valid: it is unknown, expired or revoked; ask an admin for a new one"


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What is shown of a key; times in Unix seconds, None lists mean no limit."""

    id: str
    name: str
    role: Role
    actions: tuple[str, ...] | None
    models: tuple[str, ...] | None
    best_priority: Priority
    anonymise: Anonymise | None
    owner: str
    created_at: float
    expires_at: float | None
    revoked_at: float | None


@dataclass(slots=True)
class Keys:
    """The keys of one home. Methods block on the database; call them off the event loop."""

    db: Database
    clock: Callable[[], float] = field(default=time.time)

    def ensure_admin_key(self, path: Path) -> str:
        """Return the admin key in the 0600 file at ``path``, making both where there is none.

        A file whose key the database does not accept (another database, a revoked key) is replaced.

        Raises:
            InvalidRequestError: ``path`` is a link or no regular file.
        """
        existing = _read_private(path)
        if existing is not None:
            try:
                self.authenticate(existing)
            except AuthenticationError:
                pass
            else:
                return existing
        _, plaintext = self.create("admin", role="admin", owner="admin")
        _write_private(path, plaintext + "\n")
        return plaintext

    def create(
        self,
        name: str,
        *,
        role: Role = "user",
        owner: str | None = None,
        actions: Collection[str] | None = None,
        models: Collection[str] | None = None,
        best_priority: Priority = Priority.INTERACTIVE,
        anonymise: Anonymise | None = None,
        expires_at: float | None = None,
        actor: Actor = SYSTEM,
    ) -> tuple[KeyInfo, str]:
        """Make a key and return it with its plaintext, which is never shown again.

        Args:
            name: what people call it; also the owner of what it makes, unless ``owner`` is given.
            actions, models: narrow the role; None means no narrowing.
            anonymise: personal data hidden in what it asks of models, whatever the requests say.
            expires_at: Unix seconds, None means never.
            actor: who makes it, for the audit trail.

        Raises:
            InvalidRequestError: an empty or long name, an unknown role or action, a past expiry.
        """
        now = self.clock()
        self._check_new(name, role, actions, expires_at, now)
        if role != "admin" and (owner or name) in OPERATORS:
            raise InvalidRequestError(
                f"a user's key cannot be {owner or name!r}, whose keys may add to every model: "
                "choose another name",
                param="name",
            )
        secret = secrets.token_bytes(32)
        info = KeyInfo(
            id=secrets.token_hex(6),
            name=name,
            role=role,
            actions=None if actions is None else tuple(sorted(actions)),
            models=None if models is None else tuple(sorted(models)),
            best_priority=best_priority,
            anonymise=anonymise,
            owner=owner or name,
            created_at=now,
            expires_at=expires_at,
            revoked_at=None,
        )

        def change(conn: sa.Connection) -> None:
            conn.execute(keys.insert().values(**_columns(info), secret_sha256=_sha256(secret)))
            detail = {"name": name, "role": role, "owner": info.owner}
            if anonymise is not None:
                detail["anonymise"] = msgspec.to_builtins(anonymise)
            audit.record(conn, actor.id, "keys.create", info.id, detail, now)

        self.db.write_sync(change)
        return info, f"llmos_{info.id}_{secret.hex()}"

    def list(self) -> list[KeyInfo]:
        """Return every key, revoked ones too, the oldest first."""
        query = sa.select(keys).order_by(keys.c.created_at, keys.c.id)
        return self.db.read_sync(lambda conn: [_info(row) for row in conn.execute(query)])

    def revoke(self, key_id: str, actor: Actor = SYSTEM) -> KeyInfo:
        """Revoke a key, at once and for good; revoking it again changes nothing.

        Raises:
            NotFoundError: there is no such key.
        """
        now = self.clock()

        def change(conn: sa.Connection) -> KeyInfo:
            row = conn.execute(sa.select(keys).where(keys.c.id == key_id)).first()
            if row is None:
                raise NotFoundError(
                    f"there is no key {key_id[:100]!r}: `llmos keys` shows those there are"
                )
            if row.revoked_at is None:
                conn.execute(keys.update().where(keys.c.id == key_id).values(revoked_at=now))
                audit.record(conn, actor.id, "keys.revoke", key_id, {"name": row.name}, now)
            return _info(conn.execute(sa.select(keys).where(keys.c.id == key_id)).one())

        return self.db.write_sync(change)

    def authenticate(self, text: str) -> Actor:
        """Return the actor that the plaintext key stands for.

        Raises:
            AuthenticationError: malformed, unknown, expired or revoked, without saying which.
        """
        match = _KEY.fullmatch(text.strip())
        if match is None:
            raise AuthenticationError(_REFUSED)
        query = sa.select(keys).where(keys.c.id == match[1])
        row = self.db.read_sync(lambda conn: conn.execute(query).first())
        given = _sha256(bytes.fromhex(match[2]))
        matches = secrets.compare_digest(given, row.secret_sha256 if row else bytes(32))
        if row is None or not matches or not _is_live(row, self.clock()):
            raise AuthenticationError(_REFUSED)
        return _actor(_info(row))

    def actor_of(self, key_id: str) -> Actor:
        """Return whom a key stands for, by its id: what it was used for may go on without it.

        Raises:
            AuthenticationError: it is unknown, expired or revoked.
        """
        query = sa.select(keys).where(keys.c.id == key_id)
        row = self.db.read_sync(lambda conn: conn.execute(query).first())
        if row is None or not _is_live(row, self.clock()):
            raise AuthenticationError(f"the key {key_id!r} has expired, was revoked or is unknown")
        return _actor(_info(row))

    def _check_new(
        self,
        name: str,
        role: str,
        actions: Collection[str] | None,
        expires_at: float | None,
        now: float,
    ) -> None:
        if not name.strip() or len(name) > _MAX_NAME_CHARS or not name.isprintable():
            raise InvalidRequestError(
                f"a key's name is 1 to {_MAX_NAME_CHARS} printable characters", param="name"
            )
        if role not in {"admin", "user"}:
            raise InvalidRequestError(f"role must be admin or user, not {role!r}", param="role")
        if unknown := sorted(set(actions or ()) - set(ACTIONS)):
            known = ", ".join(ACTIONS)
            raise InvalidRequestError(
                f"unknown action {unknown[0]!r}: use {known}", param="actions"
            )
        if expires_at is not None and expires_at <= now:
            raise InvalidRequestError("expires_at must be in the future", param="expires_at")


def _is_live(row: sa.Row[Any], now: float) -> bool:
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def _columns(info: KeyInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "role": info.role,
        "actions": None if info.actions is None else list(info.actions),
        "models": None if info.models is None else list(info.models),
        "best_priority": int(info.best_priority),
        "anonymise": msgspec.to_builtins(info.anonymise),
        "owner": info.owner,
        "created_at": info.created_at,
        "expires_at": info.expires_at,
    }


def _info(row: sa.Row[Any]) -> KeyInfo:
    return KeyInfo(
        id=row.id,
        name=row.name,
        role=row.role,
        actions=None if row.actions is None else tuple(row.actions),
        models=None if row.models is None else tuple(row.models),
        best_priority=Priority(row.best_priority),
        anonymise=msgspec.convert(row.anonymise, Anonymise | None),
        owner=row.owner,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )


def _actor(info: KeyInfo) -> Actor:
    return Actor(
        id=info.id,
        owner=info.owner,
        role=info.role,
        actions=None if info.actions is None else frozenset(info.actions),
        models=None if info.models is None else frozenset(info.models),
        best_priority=info.best_priority,
        anonymise=info.anonymise,
    )


def _sha256(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _read_private(path: Path) -> str | None:
    """Return the text of the file, made 0600 where it was wider; None when there is none."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise InvalidRequestError(f"{path} is not a regular file: move it away and start again")
    if stat.S_IMODE(mode) != 0o600:
        path.chmod(0o600)
    return path.read_text("utf-8", errors="replace").strip()


def _write_private(path: Path, text: str) -> None:
    """Write ``text`` to a 0600 file, whole or not at all, replacing one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
