"""Operators that choose among records whatever they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pydantic import Field

from llmos.data.pipeline.operator import Operator, Options
from llmos.data.pipeline.record import Record


class SampleOptions(Options):
    share: float = Field(gt=0, le=1, description="of the records, about, that is kept")


class Sample(Operator[SampleOptions]):
    """Keeps a share of the records, drawn by the seed and each record's id alone.

    The same records are drawn whatever their order, and a smaller share is a part of a larger one.

    >>> texts = [str(number) for number in range(1000)]
    >>> sum(text.startswith("dropped: not drawn") for text in tried(Sample(share=0.25), *texts))
    753
    """

    name = "sample"
    adds = ()
    group = "shape"
    options_type = SampleOptions

    def __call__(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            if self._drawn(record.id) >= self.options.share:
                record.dropped_reason = "not drawn"
            yield record

    def _drawn(self, identifier: str) -> float:
        """Return a number in [0, 1)."""
        drawn = hashlib.blake2b(f"{self.seed}\x1f{identifier}".encode(), digest_size=6).digest()
        return int.from_bytes(drawn, "big") / 2**48
