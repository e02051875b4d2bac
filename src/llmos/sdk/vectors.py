"""Vectors as they travel: little-endian float32 numbers, in JSON as base64 of them."""

from __future__ import annotations

import array
import base64
import sys


def numbers(vector: bytes) -> list[float]:
    """Return the numbers of little-endian float32 bytes."""
    floats = array.array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats.tolist()


def to_base64(vector: bytes) -> str:
    """Return the bytes as OpenAI's ``encoding_format: base64`` has them."""
    return base64.b64encode(vector).decode("ascii")


def from_base64(text: str) -> list[float]:
    """Return the numbers of what ``to_base64`` made."""
    return numbers(base64.b64decode(text))
