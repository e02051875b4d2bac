"""The library: committing, finding, naming and removing versions of artifacts.

A version never changes; an alias moves; a removed version leaves a tombstone, so its number is
never given out again. A name belongs to the owner of its oldest version that is not removed: no
other user adds to it. Blobs are the blob store's, sweeping them is ``sweep``'s.
Methods block on the database: call them off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import sqlalchemy as sa

from llmos.errors import ConflictError, InvalidModelError, InvalidNameError
from llmos.library import finding
from llmos.library.adapters import parse_adapter
from llmos.library.aliases import (
    check_alias,
    check_not_deployed,
    check_not_in_deployment,
    point,
)
from llmos.library.blob_owners import BlobOwners, forget_uploads
from llmos.library.files import check_filename
from llmos.library.manifest import parse_manifest, version_digest
from llmos.library.refs import ModelRef, is_name, parse_name
from llmos.library.sweep import SweepReport, sweep
from llmos.library.versions import LATEST, Version, read_versions
from llmos.security import audit, policy
from llmos.security.actors import OPERATORS, SYSTEM, Actor
from llmos.storage.blobs import BlobStore
from llmos.storage.database import Database
from llmos.storage.schema import aliases, lineage, task_defaults, version_files, versions
from llmos.types import NewVersion

_Signature = tuple[tuple[int, ...], ...]


class Library:
    """Every artifact of one home.

    Args:
        db: the home's database.
        blobs: the home's blob store.
        clock: Unix seconds.
        models_dir: where ``directory`` lays models out for the engines.
    """

    def __init__(
        self,
        db: Database,
        blobs: BlobStore,
        clock: Callable[[], float],
        models_dir: Path,
    ) -> None:
        self._db = db
        self._blobs = blobs
        self._clock = clock
        self.models_dir = models_dir
        self.blob_owners = BlobOwners(db, blobs)
        self._verified: dict[str, _Signature] = {}

    # -- writing ---------------------------------------------------------------------------------

    def commit(
        self,
        conn: sa.Connection,
        new: NewVersion,
        owner: str,
        job_id: int | None,
        at: float,
        actor: str,
    ) -> Version:
        """Add a version inside the caller's write transaction and move ``@latest`` to it.

        Args:
            new: its blobs are in the store already.
            owner: whose it is.
            job_id: the job that made it, None where none did.
            at: Unix seconds.
            actor: id of who did it, for the audit trail.

        Raises:
            InvalidNameError: the name is not one.
            InvalidModelError: it has no files, a bad file name or a bad manifest.
            ConflictError: the name is another owner's.
        """
        ref = parse_name(new.name)
        _check_owner(conn, new.kind, ref, owner)
        _check_kind(conn, new.kind, ref)
        if not new.files:
            raise InvalidModelError(f"{new.name} has no files")
        for filename in new.files:
            check_filename(filename)
        if new.kind == "model":
            parse_manifest(new.manifest)
        elif new.kind == "adapter":
            parse_adapter(new.manifest)
        named = _named(versions, new.kind, ref)
        newest = conn.execute(sa.select(sa.func.max(versions.c.number)).where(*named)).scalar()
        number = (newest or 0) + 1
        digest = version_digest(new.files, new.manifest)
        values = {
            "kind": new.kind,
            "namespace": ref.namespace,
            "name": ref.name,
            "number": number,
            "digest": digest,
            "manifest": new.manifest,
            "job_id": job_id,
            "owner": owner,
            "created_at": at,
        }
        inserted = conn.execute(versions.insert().values(**values)).inserted_primary_key
        assert inserted is not None
        _insert_parts(conn, inserted[0], new, owner)
        forget_uploads(conn, owner, [file.digest for file in new.files.values()])
        point(conn, new.kind, ref, LATEST, number, owner, at)
        detail = {"digest": digest, "job_id": job_id}
        audit.record(conn, actor, f"{new.kind}s.create", f"{ref.full_name}:{number}", detail, at)
        return read_versions(conn, versions.c.id == inserted[0])[0]

    def add(
        self, new: NewVersion, owner: str, job_id: int | None = None, actor: Actor = SYSTEM
    ) -> Version:
        """``commit`` in a transaction of its own."""
        now = self._clock()
        return self._db.write_sync(
            lambda conn: self.commit(conn, new, owner, job_id, now, actor.id)
        )

    def check_name(self, name: str, owner: str, kind: str | None = None) -> None:
        """Pass silently when ``owner`` may add a version of ``name``: before long work on one.

        Args:
            kind: of what is to be added, None where only the work will tell.

        Raises:
            InvalidNameError: the name is not one.
            ConflictError: it is another owner's, or a task answers to it with another's model, or
                it names what is of another kind.
        """
        ref = parse_name(name)

        def check(conn: sa.Connection) -> None:
            _check_owner(conn, kind or "model", ref, owner)
            if kind is not None:
                _check_kind(conn, kind, ref)

        self._db.read_sync(check)

    def remove(self, ref: str | ModelRef, actor: Actor, kind: str = "model") -> Version:
        """Remove one version (``@latest`` of a bare name), leaving its tombstone.

        Its aliases go with it; ``@latest`` moves to the newest version that is left. The blobs stay
        until ``gc``. A task's default model must be replaced before it can go.

        Raises:
            ModelNotFoundError: there is no such version, or it is removed already.
            PermissionDeniedError: it is another owner's.
            ConflictError: a task answers with this model and it is the last version, it is
                deployed, or another owner's alias means it.
        """
        wanted, now = _as_ref(ref), self._clock()

        def change(conn: sa.Connection) -> Version:
            version = finding.find(conn, wanted, kind)
            action = "datasets.write" if kind == "dataset" else "models.write"
            policy.check(actor, action, version.ref, owner=version.owner)
            for alias in version.aliases:
                check_alias(conn, version, alias, actor)
            check_not_in_deployment(conn, version)
            named = _named(versions, kind, wanted)
            live = read_versions(conn, *named, versions.c.removed_at.is_(None))
            _check_not_default(conn, version, last=len(live) == 1)
            conn.execute(
                versions.update().where(versions.c.id == version.id).values(removed_at=now)
            )
            pointing = (*_named(aliases, kind, wanted), aliases.c.number == version.number)
            conn.execute(aliases.delete().where(*pointing))
            left = [other.number for other in live if other.number != version.number]
            if left and LATEST in version.aliases:
                point(conn, kind, wanted, LATEST, left[-1], version.owner, now)
            audit.record(conn, actor.id, f"{kind}s.remove", version.ref, {}, now)
            return read_versions(conn, versions.c.id == version.id)[0]

        return self._db.write_sync(change)

    def set_alias(
        self, ref: str | ModelRef, alias: str, actor: Actor, kind: str = "model"
    ) -> Version:
        """Point ``alias`` at the version that ``ref`` names, moving it if it exists.

        Raises:
            InvalidNameError: the alias is not a name, or is ``latest``, which moves by itself.
            ModelNotFoundError: there is no such version.
            PermissionDeniedError: the version is another owner's.
            ConflictError: the alias exists and is another owner's, or moves by its gate only.
        """
        if not is_name(alias) or alias == LATEST:
            raise InvalidNameError(
                f"{alias[:80]!a} cannot be an alias: use letters, digits, '.', '_' and '-', "
                "and not 'latest', which always means the newest version",
                param="alias",
            )
        wanted, now = _as_ref(ref), self._clock()

        def change(conn: sa.Connection) -> Version:
            version = finding.find(conn, wanted, kind)
            policy.check(actor, "models.write", version.ref, owner=version.owner)
            check_alias(conn, version, alias, actor)
            check_not_deployed(conn, version, alias)
            point(conn, kind, wanted, alias, version.number, actor.owner, now)
            audit.record(conn, actor.id, f"{kind}s.alias", version.ref, {"alias": alias}, now)
            return read_versions(conn, versions.c.id == version.id)[0]

        return self._db.write_sync(change)

    def set_task_default(self, task: str, model: str | ModelRef, actor: Actor) -> None:
        """Let the task name ``task`` answer with ``model``.

        Raises:
            InvalidNameError: the task is not a name.
            ModelNotFoundError: there is no such model.
        """
        if not is_name(task):
            raise InvalidNameError(f"{task[:80]!a} is not a valid task name", param="task")
        wanted, now = _as_ref(model), self._clock()

        def change(conn: sa.Connection) -> None:
            finding.find(conn, wanted, "model")
            conn.execute(task_defaults.delete().where(task_defaults.c.task == task))
            values = {"task": task, "model": str(wanted), "owner": actor.owner}
            conn.execute(task_defaults.insert().values(**values))
            audit.record(conn, actor.id, "models.default", task, {"model": str(wanted)}, now)

        self._db.write_sync(change)

    # -- reading ---------------------------------------------------------------------------------

    def resolve(self, ref: str | ModelRef, kind: str | None = None) -> Version:
        """Return the version that a name means: what is so named, else the task's default.

        Args:
            kind: look for this kind only; None: a model or an adapter, which share their names.

        Raises:
            InvalidNameError: the text is not a name.
            ModelNotFoundError: there is none; the message names the nearest or says
                that it was removed.
        """
        wanted = _as_ref(ref)
        return self._db.read_sync(lambda conn: finding.resolve(conn, wanted, kind))

    def list(self, kind: str = "model") -> list[Version]:
        """Return every version that is not removed, by name and number."""
        live = (versions.c.kind == kind, versions.c.removed_at.is_(None))
        return self._db.read_sync(lambda conn: read_versions(conn, *live))

    def made_from(self, source: str) -> Iterable[Version]:
        """Return the versions, not removed, whose lineage has this ref or digest."""
        return self._db.read_sync(lambda conn: finding.made_from(conn, source))

    def versions(self, name: str | ModelRef, kind: str = "model") -> Iterable[Version]:
        """Return every version of one name, tombstones too, the oldest first."""
        named = _named(versions, kind, _as_ref(name))
        return self._db.read_sync(lambda conn: read_versions(conn, *named))

    def task_defaults(self) -> dict[str, str]:
        """Return the model that each task name answers with."""
        rows = self._db.read_sync(lambda conn: conn.execute(sa.select(task_defaults)).all())
        return {row.task: row.model for row in rows}

    def directory(self, version: Version) -> Path:
        """Return a directory with the version's files, every blob verified on the way.

        The first call of a process hashes every file; later ones only look whether one was touched.

        Raises:
            NotFoundError, CorruptBlobError: a blob is missing, or was damaged and is set aside.
        """
        target = self.models_dir / version.digest.removeprefix("sha256:")
        if self._verified.get(version.digest) != _signature(target, version):
            self._blobs.materialize(version.files, target)
            self._verified[version.digest] = _signature(target, version)
        return target

    def gc(self, grace_s: float, now: float | None = None) -> SweepReport:
        """Sweep blobs and directories that nothing refers to and that are older than ``grace_s``.

        Args:
            grace_s: seconds; what is younger is always kept.
            now: Unix seconds, None for the clock's.
        """
        moment = self._clock() if now is None else now
        return sweep(self._db, self._blobs, self.models_dir, grace_s, moment)


def _signature(directory: Path, version: Version) -> _Signature:
    """Return what changes when a file of the directory is replaced or written to."""
    paths = [directory / filename for filename in version.files]
    found = [path.stat() if path.exists() else None for path in paths]
    return tuple((s.st_ino, s.st_size, s.st_mtime_ns) if s else () for s in found)


def _as_ref(ref: str | ModelRef) -> ModelRef:
    return ref if isinstance(ref, ModelRef) else ModelRef.parse(ref)


def _named(table: sa.Table, kind: str, ref: ModelRef) -> tuple[sa.ColumnElement[bool], ...]:
    return (table.c.kind == kind, table.c.namespace == ref.namespace, table.c.name == ref.name)


def _check_kind(conn: sa.Connection, kind: str, ref: ModelRef) -> None:
    """Refuse a model an adapter's name, and an adapter a model's: requests ask for both by name."""
    other = {"model": "adapter", "adapter": "model"}.get(kind, "")
    live = (*_named(versions, other, ref), versions.c.removed_at.is_(None))
    if conn.execute(sa.select(versions.c.id).where(*live).limit(1)).scalar() is not None:
        raise ConflictError(
            f"the {other} {ref.full_name!r} has this name already: give the {kind} another",
            param="name",
        )


def _check_owner(conn: sa.Connection, kind: str, ref: ModelRef, owner: str) -> None:
    """Refuse what would put a user's model where another owner's answers now."""
    if owner in OPERATORS:
        return
    live = (*_named(versions, kind, ref), versions.c.removed_at.is_(None))
    oldest = sa.select(versions.c.owner).where(*live).order_by(versions.c.number).limit(1)
    holder = conn.execute(oldest).scalar()
    if holder not in (None, owner):
        raise ConflictError(
            f"the name {ref.full_name!r} belongs to {holder}: choose another name", param="name"
        )
    if holder is not None or kind == "dataset" or ref.namespace:
        return
    answered = sa.select(task_defaults.c.owner).where(task_defaults.c.task == ref.name)
    if conn.execute(answered).scalar() not in (None, owner):
        raise ConflictError(
            f"{ref.full_name!r} is a task that another owner's model answers: choose another name",
            param="name",
        )


def _insert_parts(conn: sa.Connection, version_id: int, new: NewVersion, owner: str) -> None:
    files = [
        {
            "version_id": version_id,
            "filename": filename,
            "digest": file.digest,
            "size": file.size,
            "owner": owner,
        }
        for filename, file in new.files.items()
    ]
    conn.execute(version_files.insert(), files)
    inputs = [
        {"version_id": version_id, "input": source, "owner": owner}
        for source in dict.fromkeys(new.inputs)
    ]
    if inputs:
        conn.execute(lineage.insert(), inputs)


def _check_not_default(conn: sa.Connection, version: Version, *, last: bool) -> None:
    """Refuse to remove the version that a task's default means."""
    for row in conn.execute(sa.select(task_defaults)):
        default = ModelRef.parse(row.model)
        if version.kind != "model" or default.full_name != version.full_name:
            continue
        pinned = default.version == version.number or default.alias in version.aliases
        if last or pinned:
            raise ConflictError(
                f"{version.ref} answers the task {row.task!r}: give that task another model first, "
                f"with `llmos default {row.task} MODEL`"
            )
