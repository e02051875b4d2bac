"""Takes the prefix cache out of a model that is swapped out, and puts it back into the one loaded
later: exact copies, so that what was read once is not read again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor

from llmos.engines.native.blocks import BlockPool

PART_BYTES = 2**26
"""So much is copied at a time: some 20 ms, in which others wait; and the device has to have a small
part of that free."""


class Blocks(Protocol):
    """Where a runner keeps keys and values."""

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]: ...

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None: ...


class ParkedBlocks:
    """Full blocks by key, those used longest ago first; in host memory once they were copied."""

    def __init__(
        self, runner: Blocks, blocks: Sequence[int], keys: Sequence[bytes], block_bytes: int
    ) -> None:
        self._runner: Blocks | None = runner
        self._blocks = blocks
        self._per_part = max(PART_BYTES // block_bytes, 1)
        self._parts: list[list[Tensor]] = []
        self.keys = keys
        self.num_bytes = len(keys) * block_bytes

    def copy(self) -> Iterator[None]:
        """See ``Parked``."""
        assert self._runner is not None, "it was copied"
        for start in range(0, len(self._blocks), self._per_part):
            part = self._blocks[start : start + self._per_part]
            self._parts.append(self._runner.read_blocks(part))
            yield
        self._runner = None  # which would keep the model

    def write(self, runner: Blocks, blocks: Sequence[int]) -> None:
        """Fill as many blocks with those used last."""
        skipped = len(self.keys) - len(blocks)
        for at, part in enumerate(self._parts):
            begin = at * self._per_part - skipped
            given = blocks[max(begin, 0) : max(begin + self._per_part, 0)]
            if given:
                runner.write_blocks(given, [numbers[-len(given) :] for numbers in part])


def park(runner: Blocks, pool: BlockPool, max_bytes: int, block_bytes: int) -> ParkedBlocks | None:
    """Return the blocks used last, as many as fit, to be copied; None where there are none.

    Args:
        block_bytes: what one takes in all layers.
    """
    kept = pool.idle_keys() if block_bytes else []
    kept = kept[max(len(kept) - max_bytes // block_bytes, 0) :]
    if not kept:
        return None
    blocks, keys = zip(*kept, strict=True)
    return ParkedBlocks(runner, blocks, keys, block_bytes)


def unpark(runner: Blocks, pool: BlockPool, parked: ParkedBlocks) -> None:
    """Put the blocks back, those used last where not all of them find room."""
    first = max(len(parked.keys) - pool.num_free, 0)
    parked.write(runner, pool.adopt(parked.keys[first:]))
