"""Hashes of all windows of a text, and some that every equal part has in common with another.

Rabin and Karp's rolling hash, modulo several primes at once; winnowing (Schleimer, Wilkerson and
Aiken 2003) chooses windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

PRIMES = (2147483647, 2147483629, 2147483587, 2147483579)
BLOCK_CHARS = 2**16
Numbers = NDArray[np.uint64]
_HALF = np.uint64(32)


class WindowHasher:
    """Hashes every window of so many characters.

    Args:
        length: of a window, in characters.
        seed: that the hashes are drawn by.
        width: how many hashes of 31 bits of each; by chance two windows agree in all with a
            probability of about length / 2^31 to the power of it.
    """

    def __init__(self, length: int, seed: int, width: int) -> None:
        self.length = length
        drawn = hashlib.blake2b(seed.to_bytes(8, "little"), digest_size=8 * width).digest()
        self._fields = []
        for place, prime in enumerate(PRIMES[:width]):
            number = int.from_bytes(drawn[8 * place : 8 * place + 8], "little")
            base = 2**21 + number % (prime - 2**22)
            powers, inverses = (
                _powers(one, prime, BLOCK_CHARS + length) for one in (base, pow(base, -1, prime))
            )
            self._fields.append((np.uint64(prime), powers, inverses))

    def hashes(self, text: str) -> Iterator[Numbers]:
        """Yield the hashes of the windows that begin at each character, below 2^31: [width, some];
        of a shorter text none."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.uint64)
        codes += np.uint64(1)
        for start in range(0, len(codes) - self.length + 1, BLOCK_CHARS):
            block = codes[start : start + BLOCK_CHARS + self.length - 1]
            count = len(block) - self.length + 1
            found = np.empty((len(self._fields), count), np.uint64)
            for place, (prime, powers, inverses) in enumerate(self._fields):
                sums = np.zeros(len(block) + 1, np.uint64)
                np.cumsum(block * powers[: len(block)] % prime, out=sums[1:])
                ranges = (sums[self.length :] - sums[:count]) % prime
                found[place] = ranges * inverses[:count] % prime
            yield found


def chosen(numbers: Numbers, window: int) -> NDArray[np.int64]:
    """Return the places of the least of each ``window`` numbers in a row, of equal ones the first.

    Args:
        numbers: below 2^62, fewer than 2^32 of them; of fewer than ``window`` none is chosen.
    """
    count = len(numbers)
    if count < window:
        return np.zeros(0, np.int64)
    placed = ((numbers >> np.uint64(30)) << _HALF) | np.arange(count, dtype=np.uint64)
    padded = np.full(-(-count // window) * window, np.iinfo(np.uint64).max, np.uint64)
    padded[:count] = placed
    blocks = padded.reshape(-1, window)
    # A row of numbers is the end of one block and the beginning of the next.
    ends = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].ravel()
    begins = np.minimum.accumulate(blocks, axis=1).ravel()
    least = np.minimum(ends[: count - window + 1], begins[window - 1 : count])
    return np.unique(least & np.uint64(2**32 - 1)).astype(np.int64)


def _powers(base: int, prime: int, count: int) -> Numbers:
    found = np.ones(1, np.uint64)
    while len(found) < count:
        factor = np.uint64(pow(base, len(found), prime))
        found = np.concatenate([found, found * factor % np.uint64(prime)])
    return found[:count]
