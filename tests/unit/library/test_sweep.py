"""gc: sweeps what nothing needs, and only that."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from llmos.kernel.jobs import FINAL_STATES, JobState
from llmos.library.artifacts import Library
from llmos.library.sweep import digests_in
from llmos.security.actors import SYSTEM
from llmos.storage.blobs import BlobStore
from llmos.storage.memory import MemoryDatabase
from llmos.storage.schema import jobs
from llmos.types import NewVersion

Make = Callable[..., NewVersion]
LATER = time.time() + 1e6  # far more than the tests before may take


def submit(
    db: MemoryDatabase, params: dict[str, Any], state: JobState, created_at: float = 0.0
) -> None:
    values = {
        "kind": "import",
        "name": "x",
        "params": params,
        "state": state,
        "priority": 1,
        "owner": "o",
    }
    db.write_sync(lambda conn: conn.execute(jobs.insert().values(**values, created_at=created_at)))


def test_only_unreferenced_blobs_older_than_the_grace_go(
    library: Library, blobs: BlobStore, new_version: Make
) -> None:
    kept = library.add(new_version("a", "kept"), "o").files["config.json"].digest
    loose = blobs.put_bytes(b"loose!").digest
    assert library.gc(2e6, LATER).blobs == 0
    report = library.gc(5e5, LATER)
    assert (report.blobs, report.bytes) == (1, 6)
    assert blobs.has(kept)
    assert not blobs.has(loose)


def test_blobs_of_a_removed_version_go_unless_shared(
    library: Library, blobs: BlobStore, new_version: Make
) -> None:
    shared = library.add(new_version("a", "shared"), "o").files["config.json"].digest
    alone = library.add(new_version("b", "alone"), "o").files["config.json"].digest
    library.add(new_version("c", "shared"), "o")
    library.remove("a", SYSTEM)
    library.remove("b", SYSTEM)
    library.gc(0.0, LATER)
    assert blobs.has(shared)
    assert not blobs.has(alone)


@pytest.mark.parametrize("state", list(JobState))
def test_blobs_in_the_params_of_unfinished_jobs_stay(
    library: Library, blobs: BlobStore, db: MemoryDatabase, state: JobState
) -> None:
    digests = [blobs.put_bytes(text).digest for text in (b"1", b"2", b"3")]
    params = {
        "files": {"a": digests[0]},
        "deep": [{"x": [digests[1]]}],
        "text": f"see {digests[2]}!",
    }
    submit(db, params, state, created_at=LATER)
    library.gc(0.0, LATER)
    assert {blobs.has(digest) for digest in digests} == {state not in FINAL_STATES}


def test_what_was_stored_since_an_unfinished_job_began_stays(
    library: Library, blobs: BlobStore, db: MemoryDatabase
) -> None:
    fresh = blobs.put_bytes(b"about to be committed").digest
    submit(db, {}, JobState.RUNNING, created_at=time.time() - 60.0)
    library.gc(0.0, LATER)
    assert blobs.has(fresh)


def test_directories_of_removed_versions_go(library: Library, new_version: Make) -> None:
    gone = library.directory(library.add(new_version("a", "1"), "o"))
    kept = library.directory(library.add(new_version("b", "2"), "o"))
    library.remove("a", SYSTEM)
    assert library.gc(2e6, LATER).directories == 0
    assert library.gc(0.0, LATER).directories == 1
    assert not gone.exists()
    assert (kept / "config.json").read_text() == "2"


def test_an_empty_home_sweeps_nothing(library: Library) -> None:
    report = library.gc(0.0)
    assert (report.blobs, report.bytes, report.directories) == (0, 0, 0)


def test_digests_are_found_wherever_they_are() -> None:
    digest = "sha256:" + "ab" * 32
    value = {digest: [1, None, True, ("x" + digest + "y", {"k": digest})], "n": 1.5}
    assert list(digests_in(value)) == [digest] * 3
    assert list(digests_in({"a": "sha256:zz"})) == []
