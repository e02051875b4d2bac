"""Takes the prefix cache out of a model that is swapped out, and puts it back into the one loaded
later: exact copies, so that what was read once is not read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from llmos.engines.native.blocks import BlockPool


class Blocks(Protocol):
    """Where a runner keeps keys and values."""

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]: ...

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None: ...


@dataclass(frozen=True, slots=True)
class ParkedBlocks:
    """Full blocks by key, those used longest ago first, in host memory.

    Attributes:
        numbers: keys and values, ``[number of blocks, …]`` each.
    """

    keys: tuple[bytes, ...]
    numbers: tuple[Tensor, ...]

    @property
    def num_bytes(self) -> int:
        return sum(part.nbytes for part in self.numbers)


def park(runner: Blocks, pool: BlockPool, max_bytes: int, block_bytes: int) -> ParkedBlocks | None:
    """Copy the blocks used last, as many as fit; None where there are none.

    Args:
        block_bytes: what one takes in all layers.
    """
    kept = pool.idle_keys() if block_bytes else []
    kept = kept[max(len(kept) - max_bytes // block_bytes, 0) :]
    if not kept:
        return None
    blocks, keys = zip(*kept, strict=True)
    return ParkedBlocks(keys, tuple(runner.read_blocks(blocks)))


def unpark(runner: Blocks, pool: BlockPool, parked: ParkedBlocks) -> None:
    """Put the blocks back, those used last where not all of them find room."""
    room = min(len(parked.keys), pool.num_free)
    first = len(parked.keys) - room
    blocks = pool.adopt(parked.keys[first:])
    runner.write_blocks(blocks, [part[first:] for part in parked.numbers])
