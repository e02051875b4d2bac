"""Operators that embed texts, and keep one of those that mean nearly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import Field

from llmos.data.pipeline.operator import KEY_BYTES, Batcher, Comparer, Options, TextOptions
from llmos.data.pipeline.options import Embedder, ListField, NewField
from llmos.data.pipeline.record import Record
from llmos.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EMBEDDING = "embedding"


class EmbedOptions(TextOptions):
    model: Embedder = Field(description="a model of the library that embeds texts")
    to: NewField = Field(default=EMBEDDING, description="the field for the vector")
    characters: int = Field(default=2000, ge=1, description="of a text that the model is given")


class Embed(Batcher[EmbedOptions]):
    """Adds the embedding of a text by a model of the library: a list of numbers.

    >>> embed = Embed(model="embeddings")
    >>> embed.ask = lambda path, bodies: [{"data": [{"embedding": [0.6, 0.8]}]} for _ in bodies]
    >>> apply([embed], [Record("1", {"text": "a cat"})]).records[0].fields
    {'text': 'a cat', 'embedding': [0.6, 0.8]}
    """

    name = "embed"
    adds = ()
    group = "shape"
    options_type = EmbedOptions

    def batch(self, records: list[Record]) -> list[Record]:
        """Add the embeddings. Raises LlmosError: the model embeds no texts, or not this one."""
        options = self.options
        texts = [one.text(options.field)[: options.characters] for one in records]
        bodies: list[dict[str, Any]] = [{"model": options.model, "input": [one]} for one in texts]
        for record, told in zip(records, self.ask("/v1/embeddings", bodies), strict=True):
            record.fields[options.to] = told["data"][0]["embedding"]
        return records


class SemanticDedupOptions(Options):
    field: ListField = Field(default=EMBEDDING, description="of the vector, see `embed`")
    bands: int = Field(default=64, ge=1, le=256, description="more find less similar texts, too")
    rows: int = Field(
        default=32, ge=1, le=128, description="of a band; more find more similar ones"
    )


class SemanticDedup(Comparer[SemanticDedupOptions]):
    """Drops records whose embedding points nearly where that of one before does, in the whole
    dataset.

    The signs of products with random vectors are compared in bands (Charikar 2002, Similarity
    estimation techniques from rounding algorithms). Two embeddings at an angle of a are found with
    a probability of 1 - (1 - (1 - a/pi)^rows)^bands: by default 0.04 for a cosine of 0.8, 0.36 for
    0.9, 0.88 for 0.95, 0.9997 for 0.98. Records that others between them connect are of one
    cluster.

    >>> vectors = [[1.0, 0.0, 0.1], [0.0, 1.0, 0.0], [1.0, 0.001, 0.1]]
    >>> rows = [Record(str(n), {"embedding": one}) for n, one in enumerate(vectors, 1)]
    >>> done = apply([SemanticDedup()], rows)
    >>> [one.id for one in done.records], done.outcome.dropped[0]["reason"]
    (['1', '2'], 'means the same: as 1')
    """

    name = "semantic_dedup"
    options_type = SemanticDedupOptions

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return a hash of each band of signs. Raises DataError: there is no embedding."""
        import numpy as np

        vector = record.fields.get(self.options.field)
        if not isinstance(vector, list) or not vector:
            raise DataError(f"there is no embedding in {self.options.field!r}: `embed` it first")
        signs = np.packbits(
            (self._planes(len(vector)) @ np.asarray(vector, np.float32) > 0).reshape(
                self.options.bands, self.options.rows
            ),
            axis=1,
        )
        return [
            hashlib.blake2b(
                band.to_bytes(2, "little") + row.tobytes(), digest_size=KEY_BYTES
            ).digest()
            for band, row in enumerate(signs)
        ]

    def reason(self, kept: str) -> str:
        """Return why a record goes."""
        return f"means the same: as {kept}"

    def _planes(self, size: int) -> NDArray[np.float32]:
        """Return the random vectors: [bands * rows, size]."""
        if size not in self._drawn:
            import numpy as np

            count = self.options.bands * self.options.rows
            draw = np.random.default_rng([self.seed, size])
            self._drawn[size] = draw.standard_normal((count, size), np.float32)
        return self._drawn[size]

    @cached_property
    def _drawn(self) -> dict[int, NDArray[np.float32]]:
        return {}
