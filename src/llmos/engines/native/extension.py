"""The C++ extension: built on first use where a compiler and the instructions are, then cached.

It needs no torch headers: a C interface called through ctypes, which lets go of the GIL. The cache
is named by the source, the compiler and the CPU, so that a change of any builds again.
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
from pathlib import Path

log = logging.getLogger(__name__)

SOURCES = Path(__file__).parent / "csrc"
MAIN = "decoder.cpp"
FLAGS = ("-O3", "-march=native", "-std=c++20", "-shared", "-fPIC", "-pthread")
NEEDED_CPU_FLAGS = frozenset({"avx512f", "avx512bw", "avx512vl", "avx512_vnni", "f16c"})
BUILD_TIMEOUT_S = 300


@functools.cache
def extension() -> ctypes.CDLL | None:
    """Return the extension; None where it cannot be had, and the log says why.

    Set ``LLMOS_EXTENSION=0`` to do without it.
    """
    if is_switched_off():
        return None
    if missing := NEEDED_CPU_FLAGS - cpu_flags():
        log.info("no C++ extension: the CPU lacks %s", ", ".join(sorted(missing)))
        return None
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        log.warning("no C++ extension: no compiler was found (install g++, then start again)")
        return None
    try:
        return ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        log.warning("no C++ extension: it cannot be built or loaded: %s", said)
        return None


def is_switched_off() -> bool:
    """Whether the environment says to do without."""
    return os.environ.get("LLMOS_EXTENSION") == "0"


@functools.cache
def is_likely() -> bool:
    """Say, without building it, whether there will be an extension where a compiler is."""
    return not is_switched_off() and cpu_flags() >= NEEDED_CPU_FLAGS


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


def _built(compiler: str) -> Path:
    """Return the shared library, compiled unless it is there already."""
    digest = hashlib.sha256()
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    digest.update(b"\0".join([version, " ".join(FLAGS).encode(), platform.machine().encode()]))
    digest.update(" ".join(sorted(cpu_flags())).encode())
    path = cache_dir() / f"decoder-{digest.hexdigest()[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fresh = Path(folder) / path.name
            command = [compiler, *FLAGS, str(SOURCES / MAIN), "-o", str(fresh)]
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S
            )
            fresh.replace(path)  # whole or not at all, whoever else builds it too
    return path
