"""Shingles, the n-grams of a text's words, as numbers, and what MinHash makes of a set of them.

Two sets' signatures agree in about the share of places that the sets have in common (their Jaccard
similarity; Broder 1997): with k places the standard error is at most 1 / (2 √k).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Scheme = Literal["affine32", "legacy"]
"""How a shingle's number is permuted: datasketch 2's names and formulas."""
MERSENNE_BITS, MERSENNE_PRIME = np.uint64(61), np.uint64(2**61 - 1)
MAX_32 = np.uint64(2**32 - 1)
BLOCK_SHINGLES = 512
"""Permuted at a time: what that takes stays in a processor's cache."""
_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no factor of a sum is lost
_MAX_REMEMBERED = 2**17


class MinHasher:
    """Makes signatures of sets of shingles, by permutations drawn from a seed.

    Args:
        places: of a signature.
        scheme: "affine32" is ``a h + b`` modulo 2^32 with an odd a, of a mixed h; "legacy" is
            ``(a h + b)`` modulo 2^64, then 2^61 - 1, then 2^32. Of the same numbers and seed both
            give what datasketch 2 gives.
    """

    def __init__(self, places: int, seed: int, scheme: Scheme) -> None:
        self.places = places
        self.scheme = scheme
        chance = np.random.RandomState(seed)
        if scheme == "legacy":
            high = int(MERSENNE_PRIME)
            drawn = [
                (chance.randint(1, high, dtype=np.uint64), chance.randint(0, high, dtype=np.uint64))
                for _ in range(places)
            ]
            self._factors, self._terms = np.array(drawn, np.uint64).T.copy()
        else:
            half = chance.randint(0, 2**31, places, dtype=np.uint32)
            self._factors = half * np.uint32(2) + np.uint32(1)
            self._terms = chance.randint(0, 2**32, places, dtype=np.uint32)
        self._block = np.empty((BLOCK_SHINGLES, places), self._factors.dtype)

    def signature(self, shingles: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Return the least of each permutation of a set's numbers; of none, the greatest there is.

        Args:
            shingles: any number of them, repeated ones too.

        Returns:
            [places]
        """
        least = np.full(self.places, MAX_32, self._factors.dtype)
        numbers = shingles.astype(np.uint64) if self.scheme == "legacy" else mixed(shingles)
        for start in range(0, len(numbers), BLOCK_SHINGLES):
            some = numbers[start : start + BLOCK_SHINGLES, None]
            block = np.multiply(some, self._factors, out=self._block[: len(some)])
            block += self._terms
            if self.scheme == "legacy":
                above = block >> MERSENNE_BITS
                block &= MERSENNE_PRIME
                block += above
                block[block >= MERSENNE_PRIME] -= MERSENNE_PRIME
                block &= MAX_32
            np.minimum(least, block.min(axis=0), out=least)
        return least.astype(np.uint32)


class Shingler:
    """Numbers the n-grams of words fast: each word is hashed when it is met first."""

    def __init__(self, n: int) -> None:
        self.n = n
        self._words = _WordHashes()

    def numbers(self, words: Sequence[str]) -> NDArray[np.uint64]:
        """Return a number for each n-gram, in order; of fewer words, one of them all; of none,
        none."""
        if len(self._words) > _MAX_REMEMBERED:
            self._words.clear()
        hashes = np.fromiter(map(self._words.__getitem__, words), np.uint64, len(words))
        if not len(hashes):
            return hashes
        n = min(self.n, len(hashes))
        count = len(hashes) - n + 1
        found = hashes[:count].copy()
        for place in range(1, n):
            found *= _FACTOR
            found += hashes[place : place + count]
        found ^= found >> np.uint64(32)
        found *= _FACTOR
        found ^= found >> np.uint64(29)
        return found


class _WordHashes(dict[str, int]):
    def __missing__(self, word: str) -> int:
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = found = int.from_bytes(digest, "little")
        return found


def sha1_numbers(words: Sequence[str], n: int) -> NDArray[np.uint32]:
    """Return the first 4 bytes of the SHA-1 of each n-gram, its words parted by spaces, as
    datasketch hashes it; of fewer words as `Shingler` does."""
    n = min(n, len(words))
    grams = [" ".join(words[place : place + n]) for place in range(len(words) - n + 1) if n]
    digests = (_sha1(gram)[:4] for gram in grams)
    return np.frombuffer(b"".join(digests), "<u4")


def _sha1(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return hashlib.sha1(encoded, usedforsecurity=False).digest()


def mixed(numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return numbers of which every bit depends on every bit of those given, each of another:
    MurmurHash3's finalizer for 32 bits."""
    found = numbers ^ (numbers >> np.uint32(16))
    found *= np.uint32(0x85EBCA6B)
    found ^= found >> np.uint32(13)
    found *= np.uint32(0xC2B2AE35)
    found ^= found >> np.uint32(16)
    return found
