"""What the numbers were measured on: processor, memory, and how fast it can be read.

A decode step reads every weight once, so reading speed bounds the tokens a second of a small batch.
"""

from __future__ import annotations

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import psutil

SHOWN_FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
PART_BYTES = 4 * 2**20
BUFFER_BYTES = 2**30


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    name, flags = _processor()
    return {
        "processor": name,
        "flags": [flag for flag in SHOWN_FLAGS if flag in flags],
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "read_gb_per_s": round(read_bandwidth() / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def read_bandwidth(repeats: int = 5) -> float:
    """Return bytes a second that all cores together read from memory: the best of ``repeats``."""
    numbers = np.ones(BUFFER_BYTES // 8, dtype=np.int64)
    threads = os.cpu_count() or 1
    shares = np.array_split(numbers, threads)
    best_s = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            begun = time.perf_counter()
            list(pool.map(_read, shares))
            best_s = min(best_s, time.perf_counter() - begun)
    return numbers.nbytes / best_s


def _read(numbers: np.ndarray) -> int:
    step = PART_BYTES // numbers.itemsize
    return sum(int(numbers[i : i + step].max()) for i in range(0, len(numbers), step))


def _processor() -> tuple[str, frozenset[str]]:
    """Return the processor's name and flags; the flags are known on Linux only."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    facts = {k.strip(): v.strip() for k, _, v in (line.partition(":") for line in lines) if v}
    name = facts.get("model name") or platform.machine()
    return name, frozenset((facts.get("flags") or facts.get("Features") or "").split())
