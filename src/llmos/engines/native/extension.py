"""The C++ extension: built on first use where a compiler and the instructions are, then cached.

Without it torch computes the same, slower. It needs no torch headers: a C interface called through
ctypes, which lets go of the GIL. The cache is named by the source, the compiler and the CPU, so
that a change of any builds again.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "csrc"
MAIN = "decoder.cpp"
FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread")
NEEDED_CPU_FLAGS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "f16c"})
BUILD_TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Status:
    """Whether there is an extension: built already, or at its first use, or absent for a reason."""

    obstacle: Literal["", "switched off", "cpu", "compiler"] = ""
    why: str = ""
    """What the obstacle is, in words."""
    compiler: str = ""
    path: Path = Path()
    """Where it is, or will be."""

    @property
    def state(self) -> Literal["built", "unbuilt", "absent"]:
        if self.obstacle:
            return "absent"
        return "built" if self.path.exists() else "unbuilt"


@functools.cache
def extension() -> ctypes.CDLL | None:
    """Return the extension; None where it cannot be had, and the log says why.

    Set ``LLMOS_EXTENSION=0`` to do without it.
    """
    found = status()
    if found.obstacle:
        level = logging.WARNING if found.obstacle == "compiler" else logging.INFO
        log.log(level, "no C++ extension: %s", found.why)
        return None
    try:
        if found.state == "unbuilt":
            _build(found.compiler, found.path)
        return ctypes.CDLL(str(found.path))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        log.warning("no C++ extension: it cannot be built or loaded: %s", said)
        return None


def set_threads(threads: int) -> None:
    """Let the extension, where it is in use, compute with so many threads at most."""
    if extension.cache_info().currsize and (library := extension()) is not None:
        library.llmos_set_threads(threads)


def status() -> Status:
    """Look whether there is an extension, without building it."""
    if os.environ.get("LLMOS_EXTENSION") == "0":
        return Status("switched off", "LLMOS_EXTENSION=0 says to do without")
    if missing := NEEDED_CPU_FLAGS - cpu_flags():
        return Status("cpu", f"the CPU lacks {', '.join(sorted(missing))}")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        return Status("compiler", "no compiler was found (install g++, then start again)")
    try:
        return Status(compiler=compiler, path=_path(compiler))
    except (OSError, subprocess.SubprocessError) as error:
        return Status("compiler", f"the compiler {compiler} does not run: {error}")


@functools.cache
def is_likely() -> bool:
    """Say, without building it, whether there will be an extension; only a build can fail yet."""
    return not status().obstacle


def cpu_flags() -> frozenset[str]:
    """Return the instruction sets the CPU names; empty where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def cache_dir() -> Path:
    """Return where built extensions are kept: in the home of llmos, or the user's cache."""
    home = os.environ.get("LLMOS_HOME")
    return Path(home) / "cache" if home else Path("~/.cache/llmos").expanduser()


def _path(compiler: str) -> Path:
    """Return where the shared library is, or will be, that this compiler makes here."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest.update(b"\0".join([version, " ".join(FLAGS).encode(), platform.machine().encode()]))
    digest.update(" ".join(sorted(cpu_flags())).encode())
    return cache_dir() / f"decoder-{digest.hexdigest()[:16]}.so"


def _build(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        command = [compiler, *FLAGS, str(SOURCES / MAIN), "-o", str(fresh)]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S)
        fresh.replace(path)  # whole or not at all, whoever else builds it too
