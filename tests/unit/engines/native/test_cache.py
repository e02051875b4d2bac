"""The paged cache gives back what was written, block by block."""

from __future__ import annotations

import torch

from llmos.engines.native.cache import KVCache, LayerShape, bytes_per_token

SHAPES = {0: LayerShape(2, 4, 4), 1: LayerShape(1, 8, 6)}


def make_cache(num_blocks: int = 4) -> KVCache:
    return KVCache(SHAPES, num_blocks, 3, torch.float32, torch.device("cpu"))


def test_reading_blocks_gives_what_was_written_in_token_order() -> None:
    cache = make_cache()
    keys, values = torch.randn(5, 1, 8), torch.randn(5, 1, 6)
    slots = torch.tensor([6, 7, 8, 0, 1])  # blocks 2, then 0
    cache.write(1, slots, keys, values)
    got_keys, got_values = cache.read(1, torch.tensor([[2, 0]]))
    assert got_keys.shape == (1, 1, 6, 8)
    assert torch.equal(got_keys[0, :, :5].transpose(0, 1), keys)
    assert torch.equal(got_values[0, :, :5].transpose(0, 1), values)


def test_new_and_cleared_blocks_hold_zeros() -> None:
    cache = make_cache()
    assert all(part.abs().sum() == 0 for part in cache.read(0, torch.tensor([[0, 1, 2, 3]])))
    bad = torch.full((6, 2, 4), torch.nan)
    cache.write(0, torch.arange(6), bad, bad)
    cache.clear([0])
    keys, _ = cache.read(0, torch.tensor([[0], [1]]))
    assert keys[0].abs().sum() == 0
    assert keys[1].isnan().all()


def test_bytes_per_token_count_keys_and_values_of_all_layers() -> None:
    assert bytes_per_token(SHAPES, torch.float32) == (2 * 8 + 14) * 4
    assert bytes_per_token(SHAPES, torch.bfloat16) == (2 * 8 + 14) * 2
