"""How byte-level vocabularies write bytes: each as a character that is seen (GPT-2's table)."""

from __future__ import annotations

from functools import lru_cache

NO_BYTE = -1
"""Of a token that is special."""


@lru_cache(maxsize=1)
def byte_level_table() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(256 + rank): byte for rank, byte in enumerate(others)}
