"""Who holds the blocks of the KV cache, and which tokens' numbers they hold. Only accounting.

A full block has a key: a hash chained over the model, the adapter, the tenant's salt and all tokens
up to its last. Rows with the same tokens share it; nobody writes to it any more. A keyed block that
no row holds stays until its room is needed, the one used longest ago going first.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence


def root_key(model: str, adapter: str, salt: bytes) -> bytes:
    """Return the key before a first block: sequences that differ in any of these share nothing."""
    parts = (model.encode(), adapter.encode(), salt)
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).digest()


def next_key(key: bytes, token_ids: Sequence[int]) -> bytes:
    """Return the key of the full block ``token_ids`` behind the block with ``key``."""
    return hashlib.sha256(key + array("q", token_ids).tobytes()).digest()


class BlockPool:
    """Hands out block numbers. It never runs out by itself: the batcher asks ``num_free`` first."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._idle: dict[int, None] = {}  # keyed, held by nobody, in the order of their release
        self._num_holders = [0] * num_blocks
        self._keys: dict[int, bytes] = {}
        self._keyed: dict[bytes, int] = {}
        self._suspect: set[int] = set()

    @property
    def num_free(self) -> int:
        """Blocks that no row holds."""
        return len(self._blank) + len(self._idle)

    def allocate(self, count: int) -> list[int]:
        """Give out blocks to be written."""
        assert count <= self.num_free, "the batcher planned more blocks than are free"
        return [self._take_blank() for _ in range(count)]

    def _take_blank(self) -> int:
        if self._blank:
            block = self._blank.pop()
        else:
            block = next(iter(self._idle))
            del self._idle[block]
            self._forget_key(block)
        self._num_holders[block] = 1
        return block

    def hold(self, blocks: Iterable[int]) -> None:
        """Let one more row read ``blocks``, which ``find`` returned."""
        for block in blocks:
            self._idle.pop(block, None)
            self._num_holders[block] += 1

    def release(self, blocks: Sequence[int], *, is_proven: bool = True) -> None:
        """A row leaves its blocks. ``is_proven``: they are known to hold finite numbers."""
        if is_proven:
            self._suspect.difference_update(blocks)
        else:
            self._suspect.update(blocks)
        for block in reversed(blocks):  # a prefix is of use to more rows than what follows it
            self._num_holders[block] -= 1
            assert self._num_holders[block] >= 0, "a block was released twice"
            if self._num_holders[block] == 0:
                if block in self._keys:
                    self._idle[block] = None
                else:
                    self._blank.append(block)

    def take_suspects(self, blocks: Iterable[int]) -> list[int]:
        """Return those of newly allocated ``blocks`` that must be cleared, as NaN may be there."""
        suspects = [block for block in blocks if block in self._suspect]
        self._suspect.difference_update(suspects)
        return suspects

    def publish(self, block: int, key: bytes) -> None:
        """Let others find a full block; the first one of a key stays the one."""
        if key not in self._keyed and block not in self._keys:
            self._keyed[key] = block
            self._keys[block] = key

    def retract(self, blocks: Iterable[int]) -> None:
        """Let nobody find ``blocks`` any more."""
        for block in blocks:
            self._forget_key(block)
            if block in self._idle:
                del self._idle[block]
                self._blank.append(block)

    def find(self, keys: Iterable[bytes]) -> list[int]:
        """Return the blocks of the leading ``keys`` that are there."""
        found: list[int] = []
        for key in keys:
            if (block := self._keyed.get(key)) is None:
                break
            found.append(block)
        return found

    def idle_keys(self) -> list[tuple[int, bytes]]:
        """Return the blocks, with their keys, that nobody holds; used longest ago first."""
        return [(block, self._keys[block]) for block in self._idle]

    def adopt(self, keys: Sequence[bytes]) -> list[int]:
        """Give out blocks to be filled with what these keys, new to the pool, mean; nobody holds
        them, and the last is the one used last."""
        blocks = self.allocate(len(keys))
        for block, key in zip(blocks, keys, strict=True):
            self.publish(block, key)
            self.release([block])
        return blocks

    def _forget_key(self, block: int) -> None:
        if (key := self._keys.pop(block, None)) is not None:
            del self._keyed[key]
