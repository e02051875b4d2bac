"""How much memory process trees take, pages that they share counted once. Blocking: for a thread.

On Linux a process tells what it takes in ``/proc/PID/status``, at no cost. Of a tree with several
processes, that counts a page as often as it is mapped; there ``smaps_rollup`` tells a process'
proportional set size (PSS), which splits a page among those that map it, so that forked children
add up to what they really take. It costs a walk over all pages, 45 ms for each GB, and is not done
every time. Elsewhere than on Linux it is the unique set size (USS), which leaves shared pages out.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import psutil

REREAD_CHANGE = 0.1
"""What share of its pages is a process' own is read again when it grew or shrank by so much…"""
REREAD_EVERY = 30
"""…and every so many times."""
ON_LINUX = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class Footprint:
    """The bytes that processes take."""

    held_bytes: int = 0
    """Anonymous and shared memory, swapped out or not: only who holds it can give it back."""
    file_bytes: int = 0
    """Pages of mapped files, which the system drops, and reads again, where memory is short."""

    @property
    def total_bytes(self) -> int:
        return self.held_bytes + self.file_bytes

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(self.held_bytes + other.held_bytes, self.file_bytes + other.file_bytes)


@dataclass(slots=True)
class _Share:
    """What share of the pages that a process maps is its own, when it mapped ``mapped``."""

    mapped: Footprint
    of_held: float
    of_files: float
    num_uses: int = 0

    def is_current(self, now: Footprint) -> bool:
        change_bytes = abs(now.held_bytes - self.mapped.held_bytes)
        is_near = change_bytes <= REREAD_CHANGE * self.mapped.held_bytes
        return is_near and self.num_uses < REREAD_EVERY


class FootprintReader:
    """Reads process trees again and again."""

    def __init__(self) -> None:
        self._shares: dict[int, _Share] = {}

    def read(self, leaders: Collection[int]) -> dict[int, Footprint]:
        """Return what each tree takes, by the id of its first process; without those that ended.

        Args:
            leaders: ids of processes that lead a session, as `Child.start` makes them.
        """
        found: dict[int, Footprint] = {}
        shares: dict[int, _Share] = {}
        for leader, members in sessions(leaders).items():
            for pid in members:
                with contextlib.suppress(psutil.Error, OSError):  # it has ended
                    taken = mapped(pid)
                    if ON_LINUX and len(members) > 1:
                        shares[pid] = self._share(pid, taken)
                        taken = _scaled(taken, shares[pid])
                    found[leader] = found.get(leader, Footprint()) + taken
        self._shares = shares
        return found

    def _share(self, pid: int, now: Footprint) -> _Share:
        share = self._shares.get(pid)
        if share is None or not share.is_current(now):
            own = proportional(pid)
            of_held = own.held_bytes / max(now.held_bytes, 1)
            return _Share(now, of_held, own.file_bytes / max(now.file_bytes, 1))
        share.num_uses += 1
        return share


def _scaled(taken: Footprint, share: _Share) -> Footprint:
    return Footprint(
        round(taken.held_bytes * share.of_held), round(taken.file_bytes * share.of_files)
    )


def sessions(leaders: Collection[int]) -> dict[int, list[int]]:
    """Return the processes of each session, by the id of its leader.

    That is one system call a process, where finding children takes reading a file of each; and it
    finds orphans too. A descendant that leads a session of its own is not among them.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for pid in psutil.pids() if leaders else ():
        with contextlib.suppress(OSError):  # it has ended
            if (leader := os.getsid(pid)) in leaders:
                members[leader].append(pid)
    return members


def mapped(pid: int) -> Footprint:
    """Return what a process maps, whoever else does.

    Raises:
        psutil.Error, OSError: it has ended, or is not ours to look at.
    """
    if ON_LINUX:
        sizes = _sizes(Path(f"/proc/{pid}/status"))
        if "RssAnon" not in sizes:
            raise ProcessLookupError(f"process {pid} has ended")
        held_bytes = sizes["RssAnon"] + sizes["RssShmem"] + sizes["VmSwap"]
        return Footprint(held_bytes, sizes["RssFile"])
    return Footprint(psutil.Process(pid).memory_full_info().uss)


def proportional(pid: int) -> Footprint:
    """Return what a process maps, a page that several map split among them. Linux only.

    A kernel before 5.4 does not tell files and other memory apart: then all of it counts as held.

    Raises:
        OSError: it has ended, or is not ours to look at.
    """
    sizes = _sizes(Path(f"/proc/{pid}/smaps_rollup"))
    if "Pss_Anon" not in sizes:
        return Footprint(sizes["Pss"] + sizes["SwapPss"])
    return Footprint(sizes["Pss_Anon"] + sizes["Pss_Shmem"] + sizes["SwapPss"], sizes["Pss_File"])


def _sizes(path: Path) -> dict[str, int]:
    """Return the lines that give a size, ``Name:  12 kB``, in bytes."""
    lines = (line.split() for line in path.read_text("utf-8", "replace").splitlines())
    return {
        words[0].rstrip(":"): 1024 * int(words[1])
        for words in lines
        if len(words) == 3 and words[2] == "kB"
    }
