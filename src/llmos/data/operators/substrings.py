"""The operator that keeps one of several long parts of texts that are the same, wherever they begin
and end (Lee et al. 2022, arXiv:2107.06499, "exact substring").
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from pydantic import Field

from llmos.data.pipeline.operator import TextOptions, WindowTrimmer
from llmos.data.pipeline.record import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmos.data.pipeline.clusters import Entries
    from llmos.data.windows import WindowHasher


class SubstringDedupOptions(TextOptions):
    least: int = Field(
        default=200, ge=20, le=10_000, description="characters in a row that are the same"
    )
    least_left: int = Field(
        default=1, ge=0, description="characters; a record of which less is left is dropped"
    )


class SubstringDedup(WindowTrimmer[SubstringDedupOptions]):
    """Takes out of texts every part of so many characters or more that is in one before, or further
    up, in the whole dataset.

    Where the two ends of what is left meet, a part may be new that is there before.

    >>> notice = "Copying is allowed to all who keep this notice. "
    >>> tried(SubstringDedup(least=30), notice + "One.", "Two. " + notice + "Three.")
    ['Copying is allowed to all who keep this notice. One.', 'Two. Three.']
    >>> notice = "任何人都可以复制本文，但必须保留这一段声明，并注明原来的出处和作者。"
    >>> tried(SubstringDedup(least=30), notice + "完。", "前言。" + notice + "谢谢。")
    ['任何人都可以复制本文，但必须保留这一段声明，并注明原来的出处和作者。完。', '前言。谢谢。']
    """

    name = "substring_dedup"
    options_type = SubstringDedupOptions

    @property
    def length(self) -> int:
        """Of a window."""
        return self.options.least

    def keys(self, record: Record) -> Sequence[bytes]:
        """Return hashes of some short windows, of which equal parts of texts have one in common."""
        return [key for text in record.texts(self.options.field) for key in self._marks(text)[1]]

    def windows(self, record: Record, shared: Collection[int] | None) -> Entries:
        """Return the hashes of the windows that hold a shared key; of all for None."""
        import numpy as np

        from llmos.data.pipeline.clusters import ENTRY

        found = [np.empty(0, ENTRY)]
        start = count = 0
        for text in record.texts(self.options.field):
            size = max(0, len(text) - self.length + 1)
            is_near = np.full(size, shared is None)
            if shared is not None:
                places, keys = self._marks(text)
                mine = [place for place in shared if count <= place < count + len(keys)]
                for mark in places[np.array(mine, np.int64) - count].tolist():
                    is_near[max(0, mark - self.length + self._short.length) : mark + 1] = True
                count += len(keys)
            rows = np.flatnonzero(is_near)
            if len(rows):
                hashes = np.concatenate([*self._long.hashes(text)], axis=1)[:, rows]
                entries = np.empty(len(rows), ENTRY)
                entries["high"] = hashes[0] << np.uint64(33) | hashes[1] << np.uint64(2)
                entries["low"] = hashes[2] << np.uint64(31) | hashes[3]
                entries["row"] = rows + start
                found.append(entries)
            start += len(text)
        return np.concatenate(found)

    def trim(self, record: Record, repeated: Collection[int]) -> None:
        """Take windows out, unless less than ``least_left`` would be left."""
        field = self.options.field
        left = []
        start = 0
        places = sorted(repeated)
        for text in record.texts(field):
            end = start + len(text)
            parts, last = [], start
            for place in places[bisect_left(places, start) : bisect_left(places, end)]:
                if place > last:
                    parts.append(text[last - start : place - start])
                last = place + self.length
            left.append("".join(parts) + text[last - start :])
            start = end
        length = len("\n".join(left).strip())
        if length < self.options.least_left:
            record.dropped_reason = f"too little left: {length}"
            return
        texts = iter(left)
        record.change_text(field, lambda _: next(texts))

    def _marks(self, text: str) -> tuple[NDArray[np.int64], list[bytes]]:
        """Return where the chosen short windows begin, and their hashes."""
        import numpy as np

        from llmos.data.windows import chosen

        if len(text) < self.length:
            return np.zeros(0, np.int64), []
        high, low = np.concatenate([*self._short.hashes(text)], axis=1)
        numbers = high << np.uint64(31) | low
        places = chosen(numbers, self.length - self._short.length + 1)
        keys = [number.to_bytes(8, "little") * 2 for number in (numbers[places] << 2).tolist()]
        return places, keys

    @cached_property
    def _short(self) -> WindowHasher:
        from llmos.data.windows import WindowHasher

        return WindowHasher(self.length // 2, self.seed, 2)

    @cached_property
    def _long(self) -> WindowHasher:
        from llmos.data.windows import WindowHasher

        return WindowHasher(self.length, self.seed, 4)
