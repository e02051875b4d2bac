from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmos.kernel import footprint
from llmos.kernel.footprint import (
    ON_LINUX,
    REREAD_EVERY,
    Footprint,
    FootprintReader,
    mapped,
    proportional,
    sessions,
)

ROLLUP = """55aad5982000-7ffec92f3000 ---p 00000000 00:00 0                          [rollup]
Rss:               17400 kB
Pss:                1367 kB
Pss_Anon:           1000 kB
Pss_File:            355 kB
Pss_Shmem:            12 kB
SwapPss:              24 kB
"""
STATUS = """Name:\tkB of it
VmRSS:\t    1367 kB
RssAnon:\t    1000 kB
RssFile:\t     355 kB
RssShmem:\t      12 kB
VmSwap:\t      24 kB
Threads:\t3
"""
MB = 2**20
HOLDS = f"""
import os, sys
held = bytearray(os.urandom(1)) * {40 * MB}
if all(os.fork() for _ in range(int(sys.argv[1]))):  # a child is 0, and forks no more
    print("up", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(script: str, *arguments: str) -> Iterator[int]:
    """Run a script that prints a line once it is up, as the leader of a session."""
    command = [sys.executable, "-c", script, *arguments]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        process.stdout.readline()
        yield process.pid
        process.stdin.close()


def test_what_is_held_is_told_from_mapped_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(footprint, "Path", lambda path: tmp_path / path.rpartition("/")[2])
    rollup, status = tmp_path / "smaps_rollup", tmp_path / "status"
    rollup.write_text(ROLLUP)
    assert proportional(1) == Footprint(1036 * 1024, 355 * 1024)
    rollup.write_text("\n".join(line for line in ROLLUP.splitlines() if "Pss_" not in line))
    assert proportional(1) == Footprint(1391 * 1024)
    status.write_text(STATUS)
    assert mapped(1) == Footprint(1036 * 1024, 355 * 1024)
    assert mapped(1).total_bytes == 1391 * 1024
    status.write_text("Name:\tdead\nState:\tZ (zombie)\n")
    with pytest.raises(ProcessLookupError):
        mapped(1)


@pytest.mark.skipif(not ON_LINUX, reason="elsewhere shared pages are left out")
def test_pages_that_forked_children_share_are_counted_once() -> None:
    with running(HOLDS, "2") as leader:
        assert len(sessions([leader])[leader]) == 3
        found = FootprintReader().read([leader])
    assert 40 * MB <= found[leader].held_bytes < 80 * MB


def test_a_process_that_has_ended_is_left_out() -> None:
    with running(HOLDS, "0") as leader:
        pass
    assert FootprintReader().read([leader]) == {}
    assert FootprintReader().read([]) == {}


@pytest.mark.skipif(not ON_LINUX, reason="elsewhere shared pages are left out")
def test_the_pages_of_processes_that_hardly_change_are_walked_only_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    walked: list[int] = []

    def counted(pid: int) -> Footprint:
        walked.append(pid)
        return Footprint(MB)

    monkeypatch.setattr(footprint, "proportional", counted)
    reader = FootprintReader()
    with running(HOLDS, "0") as leader:
        reader.read([leader])
        assert walked == []  # alone it shares nothing
    with running(HOLDS, "1") as leader:
        for _ in range(REREAD_EVERY + 1):
            assert reader.read([leader])[leader].held_bytes == pytest.approx(2 * MB, rel=0.05)
        assert len(walked) == 2
        reader.read([leader])
        assert len(walked) == 4


GROWS = f"""
import sys
print("up", flush=True)
sys.stdin.readline()
held = bytearray(b"x") * {40 * MB}
print("grown", flush=True)
sys.stdin.read()
"""


def test_a_process_that_grew_is_seen_to() -> None:
    reader = FootprintReader()
    command = [sys.executable, "-c", GROWS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        process.stdout.readline()
        before = reader.read([process.pid])[process.pid].held_bytes
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        after = reader.read([process.pid])[process.pid].held_bytes
        process.stdin.close()
    assert 40 * MB <= after - before < 44 * MB
