from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.errors import (
    CorruptBlobError,
    DiskFullError,
    InvalidNameError,
    InvalidRequestError,
    NotFoundError,
)
from llmos.storage.blobs import BlobStore
from llmos.storage.memory import MemoryBlobStore
from llmos.types import FileRef

DATA = b"some bytes" * 1000
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


def flip(blobs: BlobStore, digest: str) -> None:
    """Flip one bit of a stored blob."""
    if isinstance(blobs, MemoryBlobStore):
        blobs.blobs[digest].data = b"\x00" + blobs.blobs[digest].data[1:]
        return
    path = blobs.path(digest)
    path.chmod(0o644)
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def stored(root: Path) -> list[Path]:
    return [path for path in (root / "sha256").rglob("*") if path.is_file()]


# -- what both stores do -------------------------------------------------------------------------


def test_bytes_come_back_under_their_digest(blobs: BlobStore) -> None:
    assert not blobs.has(DIGEST)
    assert blobs.put_bytes(DATA) == FileRef(DIGEST, len(DATA))
    assert blobs.has(DIGEST)
    assert blobs.read_bytes(DIGEST) == DATA
    with blobs.open(DIGEST) as stream:
        assert stream.read(4) == DATA[:4]
    assert blobs.path(DIGEST).read_bytes() == DATA


@pytest.mark.parametrize("data", [b"", b"x", b"x" * (2**20 + 1)])
def test_files_of_any_size_are_put(blobs: BlobStore, tmp_path: Path, data: bytes) -> None:
    source = tmp_path / "source"
    source.write_bytes(data)
    ref = blobs.put_file(source)
    assert ref == FileRef(f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    assert blobs.read_bytes(ref.digest) == data


def test_a_linked_file_is_the_same_blob(blobs: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    (tmp_path / "link").symlink_to(source)
    assert blobs.put_file(tmp_path / "link", link=True) == FileRef(DIGEST, len(DATA))
    assert blobs.read_bytes(DIGEST) == DATA
    assert source.read_bytes() == DATA


def test_the_same_bytes_twice_are_one_blob(blobs: BlobStore) -> None:
    assert blobs.put_bytes(DATA) == blobs.put_bytes(DATA)
    assert blobs.sweep(set(), older_than=1.0, now=time.time() + 10) == [FileRef(DIGEST, len(DATA))]


def test_a_writer_left_without_commit_keeps_nothing(blobs: BlobStore) -> None:
    with pytest.raises(ValueError, match="stop"), blobs.writer() as writer:
        writer.write(DATA)
        assert writer.size == len(DATA)
        raise ValueError("stop")
    assert not blobs.has(DIGEST)


def test_what_is_absent_is_not_found(blobs: BlobStore, tmp_path: Path) -> None:
    for call in (blobs.path, blobs.verify, blobs.open, blobs.read_bytes):
        with pytest.raises(NotFoundError):
            call(DIGEST)
    with pytest.raises(NotFoundError):
        blobs.put_file(tmp_path / "absent")
    with pytest.raises(InvalidRequestError, match="regular"):
        blobs.put_file(tmp_path)
    assert not blobs.touch(DIGEST)


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        DIGEST[7:],
        DIGEST.upper(),
        DIGEST + "\n",
        DIGEST[:-1],
        DIGEST + "0",
        "sha512:" + DIGEST[7:],
        "sha256:" + "/" * 64,
        "sha256:../../etc/passwd",
    ],
)
def test_what_is_no_digest_is_refused(blobs: BlobStore, digest: str) -> None:
    for call in (blobs.path, blobs.has, blobs.verify, blobs.open, blobs.read_bytes, blobs.touch):
        with pytest.raises(InvalidRequestError):
            call(digest)


def test_a_flipped_bit_is_found_and_set_aside_and_a_new_put_heals(blobs: BlobStore) -> None:
    blobs.put_bytes(DATA)
    flip(blobs, DIGEST)
    with pytest.raises(CorruptBlobError, match=DIGEST):
        blobs.read_bytes(DIGEST)
    assert not blobs.has(DIGEST)
    blobs.put_bytes(DATA)
    assert blobs.read_bytes(DIGEST) == DATA


def test_a_directory_is_made_of_verified_blobs(blobs: BlobStore, tmp_path: Path) -> None:
    files = {"a.txt": blobs.put_bytes(b"a"), "b.txt": blobs.put_bytes(b"b")}
    directory = blobs.materialize(files, tmp_path / "models" / "m")
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == {
        "a.txt": b"a",
        "b.txt": b"b",
    }
    inode = directory.stat().st_ino
    assert blobs.materialize(files, directory).stat().st_ino == inode


def test_a_directory_with_a_missing_or_foreign_file_is_made_again(
    blobs: BlobStore, tmp_path: Path
) -> None:
    files = {"a.txt": blobs.put_bytes(b"a"), "b.txt": blobs.put_bytes(b"b")}
    directory = blobs.materialize(files, tmp_path / "m")
    (directory / "a.txt").unlink()
    (directory / "c.txt").write_text("c")
    blobs.materialize(files, directory)
    assert sorted(path.name for path in directory.iterdir()) == ["a.txt", "b.txt"]


def test_a_damaged_blob_makes_no_directory(blobs: BlobStore, tmp_path: Path) -> None:
    files = {"a.txt": blobs.put_bytes(b"a"), "b.txt": blobs.put_bytes(DATA)}
    flip(blobs, DIGEST)
    with pytest.raises(CorruptBlobError):
        blobs.materialize(files, tmp_path / "m")
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("filename", ["", ".", "..", "a/b", "/etc/passwd", "../x", "a\0b"])
def test_a_directory_takes_plain_names_only(
    blobs: BlobStore, tmp_path: Path, filename: str
) -> None:
    with pytest.raises(InvalidNameError):
        blobs.materialize({filename: blobs.put_bytes(b"a")}, tmp_path / "m")


def test_sweep_takes_what_is_old_and_unreferenced(blobs: BlobStore) -> None:
    kept, dropped = blobs.put_bytes(b"kept"), blobs.put_bytes(b"dropped")
    now = time.time()
    assert blobs.sweep({kept.digest}, older_than=60.0, now=now) == []
    assert blobs.sweep({kept.digest}, older_than=60.0, now=now + 61) == [dropped]
    assert blobs.has(kept.digest)
    assert not blobs.has(dropped.digest)


# -- files only ------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def test_a_linked_put_shares_the_bytes_on_disk(store: BlobStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    store.put_file(source, link=True)
    assert store.path(DIGEST).samefile(source)


def test_where_links_fail_files_are_copied(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    source = tmp_path / "source"
    source.write_bytes(DATA)
    ref = store.put_file(source, link=True)
    directory = store.materialize({"a": ref}, tmp_path / "m")
    assert (directory / "a").read_bytes() == DATA
    assert not (directory / "a").samefile(store.path(DIGEST))
    (directory / "a").chmod(0o644)
    (directory / "a").write_bytes(b"spoilt")
    assert (store.materialize({"a": ref}, directory) / "a").read_bytes() == DATA


def test_sweep_removes_left_over_temporary_files_once_old(store: BlobStore, tmp_path: Path) -> None:
    left = tmp_path / "blobs" / "tmp" / "left"
    left.write_bytes(b"x")
    (tmp_path / "blobs" / "tmp" / "directory").mkdir()
    store.sweep(set(), older_than=60.0, now=time.time())
    assert left.exists()
    store.sweep(set(), older_than=60.0, now=time.time() + 61)
    assert list((tmp_path / "blobs" / "tmp").iterdir()) == []


def test_putting_a_blob_again_renews_its_age(store: BlobStore) -> None:
    store.put_bytes(DATA)
    before = store.path(DIGEST).stat().st_ino
    store.put_bytes(DATA)
    assert store.path(DIGEST).stat().st_ino != before
    assert store.touch(DIGEST)


def test_stored_files_are_read_only(store: BlobStore) -> None:
    store.put_bytes(DATA)
    assert store.path(DIGEST).stat().st_mode & 0o222 == 0


FALLIBLE = ("open", "write", "fsync", "fchmod", "rename", "link", "mkdir")


class FailingCall:
    """Makes the n-th call of any file operation raise; counts them all."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail_at: int, code: int) -> None:
        self.calls = 0
        for name in FALLIBLE:
            monkeypatch.setattr(os, name, self._wrap(getattr(os, name), fail_at, code))

    def _wrap(self, real, fail_at: int, code: int):
        def call(*args, **kwargs):
            self.calls += 1
            if self.calls == fail_at:
                raise OSError(code, os.strerror(code))
            return real(*args, **kwargs)

        return call


def operation(how: str, root: Path, source: Path) -> Callable[[], object]:
    """One way to put or use blobs, on a store of its own."""
    store = BlobStore(root / "blobs")
    if how == "materialize":
        files = {"a": store.put_bytes(DATA), "b": store.put_bytes(b"b")}
        return lambda: store.materialize(files, root / "model")
    if how == "bytes":
        return lambda: store.put_bytes(DATA)
    return lambda: store.put_file(source, link=how == "link")


@pytest.mark.parametrize("how", ["bytes", "file", "link", "materialize"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_when_any_one_file_operation_fails_nothing_half_written_shows(
    tmp_path: Path, how: str, code: int
) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    failures, finished, fail_at = 0, False, 0
    while not finished:
        fail_at += 1
        root = tmp_path / f"{how}{fail_at}"
        put = operation(how, root, source)
        with pytest.MonkeyPatch.context() as patch:
            failing = FailingCall(patch, fail_at, code)
            try:
                put()
            except (DiskFullError, OSError) as error:
                failures += 1
                assert isinstance(error, DiskFullError) == (code == errno.ENOSPC)
        finished = failing.calls < fail_at
        for path in stored(root / "blobs"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        assert list((root / "blobs" / "tmp").iterdir()) == []
        if (root / "model").exists():
            assert len(list((root / "model").iterdir())) == 2
        put()
        assert BlobStore(root / "blobs").read_bytes(DIGEST) == DATA
    assert failures >= 4


KILLED = """
import os, sys
from pathlib import Path
from llmos.storage.blobs import BlobStore

FALLIBLE = {fallible!r}
source, root = Path(sys.argv[1]), Path(sys.argv[2])


def die_at(count):
    calls = 0
    def wrap(real):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == count:
                os._exit(9)
            return real(*args, **kwargs)
        return call
    for name in FALLIBLE:
        setattr(os, name, wrap(getattr(os, name)))


def work(count):
    store = BlobStore(root / str(count) / "blobs")
    die_at(count)
    files = {{"a": store.put_bytes(b"small"), "b": store.put_file(source)}}
    store.materialize(files, root / str(count) / "model")
    os._exit(0)


for count in range(1, 200):
    child = os.fork()
    if child == 0:
        work(count)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        print(count)
        sys.exit()
"""


def test_a_process_killed_at_any_file_operation_leaves_nothing_half_written(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    script = KILLED.format(fallible=FALLIBLE)
    done = subprocess.run(
        [sys.executable, "-c", script, str(source), str(tmp_path / "roots")],
        capture_output=True,
        text=True,
        check=True,
    )
    deaths = int(done.stdout) - 1
    assert deaths > 15
    for count in range(1, deaths + 2):
        root = tmp_path / "roots" / str(count)
        for path in stored(root / "blobs"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
        if (root / "model").exists():
            assert (root / "model" / "a").read_bytes() == b"small"
            assert (root / "model" / "b").read_bytes() == DATA
        store = BlobStore(root / "blobs")
        files = {"a": store.put_bytes(b"small"), "b": store.put_file(source)}
        assert (store.materialize(files, root / "model") / "b").read_bytes() == DATA
        store.sweep(set(), older_than=0.0, now=time.time() + 1)
        assert list((root / "blobs" / "tmp").iterdir()) == []
