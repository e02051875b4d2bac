"""Regular expressions that users write, compiled only where that takes little.

The package regex writes out what is repeated: `((a{999}){999}){999}` takes more memory than any
machine has. What may be such a pattern is first compiled in a process with little memory.
"""

from __future__ import annotations

import re
import subprocess
import sys
from functools import lru_cache
from math import prod
from typing import Any

import regex

SURE = 100_000
"""A pattern of so many parts at most, once its repeats are written out, is compiled at once."""
MEMORY_BYTES = 2**28
CPU_S = 1
_REPEATS = re.compile(r"\+|\{\s*([0-9]*)")
_TRY = f"""
import contextlib, resource, sys, regex
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_S}, {CPU_S}))
resource.setrlimit(resource.RLIMIT_DATA, ({MEMORY_BYTES}, {MEMORY_BYTES}))
with contextlib.suppress(regex.error, RecursionError, OverflowError):
    regex.compile(sys.stdin.buffer.read().decode())
print("ok")
"""


def compiled(pattern: str, flags: int = 0) -> Any:
    """Return a pattern as regex has it, which keeps no copy.

    Raises:
        ValueError: it is none, or takes too much memory or time to compile.
    """
    try:
        if not _is_small(pattern):
            raise ValueError(
                f"{pattern[:80]!r} repeats too much: use smaller numbers of repeats, or + in place "
                "of numbers"
            )
        return regex.compile(pattern, flags, cache_pattern=False)
    except (regex.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern[:80]!r} is no regular expression: {error}") from None


@lru_cache(maxsize=256)
def _is_small(pattern: str) -> bool:
    """Whether a pattern compiles in little memory and time, or is none at all."""
    factors = (
        int(found[1] or 0) + 1 if found[0] != "+" else 2 for found in _REPEATS.finditer(pattern)
    )
    if len(pattern) * prod(factors) <= SURE:
        return True
    tried = subprocess.run(
        [sys.executable, "-P", "-c", _TRY],
        input=pattern.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    return tried.stdout == b"ok\n"
