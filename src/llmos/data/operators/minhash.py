"""The operator that finds near duplicates by MinHash and LSH (Broder 1997; Leskovec et al., Mining
of Massive Datasets, chapter 3).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmos.data.operators.words import comparable_words
from llmos.data.pipeline.operator import KEY_BYTES, Comparer, TextOptions
from llmos.data.pipeline.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmos.data.shingles import MinHasher, Shingler


class MinHashOptions(TextOptions):
    ngram: int = Field(default=5, ge=1, le=100, description="words in a row; Chinese: characters")
    unit: Literal["auto", "characters"] = Field(
        default="auto",
        description="characters: for scripts that write no spaces, beside Chinese",
    )
    bands: int = Field(default=14, ge=1, le=256, description="more find less similar texts, too")
    rows: int = Field(default=8, ge=1, le=64, description="of a band; more find more similar ones")
    scheme: Literal["affine32", "legacy"] = Field(
        default="affine32", description="of hashing; legacy: as datasketch before 2.0, slower"
    )
    keep: Literal["first", "longest"] = Field(default="first", description="which stays of those")


class MinHashDedup(Comparer[MinHashOptions]):
    """Drops texts that are nearly the same as one before, by the n-grams of words that they share,
    in the whole dataset.

    Case, width and punctuation do not matter. Two texts whose share of common n-grams (Jaccard
    similarity) is s are found with a probability of 1 - (1 - s^rows)^bands: by default 0.56 for
    0.7, 0.92 for 0.8, 0.9996 for 0.9. Texts that others between them connect are of one cluster.

    >>> near = MinHashDedup(ngram=2, rows=3, bands=30)
    >>> tried(near, "one two three four five six", "One two three four five, six!", "six seven")
    ['one two three four five six', 'dropped: near duplicate: of 1', 'six seven']
    >>> tried(near, "今天天气很好，我们去公园。", "今天天气很好！我们去公园吧。", "明天下雨。")
    ['今天天气很好，我们去公园。', 'dropped: near duplicate: of 1', '明天下雨。']
    """

    name = "minhash_dedup"
    options_type = MinHashOptions

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return a hash of each band of the text's signature; of a text without words none."""
        options = self.options
        words = comparable_words(record.text(options.field), options.unit)
        if not words:
            return ()
        signature = self.signature(words).astype("<u4").tobytes()
        width = 4 * options.rows
        return [
            hashlib.blake2b(
                band.to_bytes(2, "little") + signature[band * width : (band + 1) * width],
                digest_size=KEY_BYTES,
            ).digest()
            for band in range(options.bands)
        ]

    def signature(self, words: Sequence[str]) -> NDArray[np.uint32]:
        """Return the MinHash of the n-grams of words: [bands * rows]."""
        if self.options.scheme == "legacy":
            from llmos.data.shingles import sha1_numbers

            return self._hasher.signature(sha1_numbers(words, self.options.ngram))
        numbers = self._shingler.numbers(words)
        return self._hasher.signature((numbers >> 32).astype("u4"))

    def weight(self, record: Record) -> int:
        """Return the text's length where the longest is to stay."""
        return len(record.text(self.options.field)) if self.options.keep == "longest" else 0

    def reason(self, kept: str) -> str:
        """Return why a record goes."""
        return f"near duplicate: of {kept}"

    # What the server has of an operator it only describes: numpy is for who uses it.
    @cached_property
    def _hasher(self) -> MinHasher:
        from llmos.data.shingles import MinHasher

        options = self.options
        return MinHasher(options.bands * options.rows, self.seed % 2**32, options.scheme)

    @cached_property
    def _shingler(self) -> Shingler:
        from llmos.data.shingles import Shingler

        return Shingler(self.options.ngram)
