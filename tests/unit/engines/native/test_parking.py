"""A model that was swapped out and in again reads none of the prompts anew that it had read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.unit.engines.decoders import (
    VOCAB,
    chunk,
    fused,
    make_decoder,
    make_quantized,
    needed_extension,
    random_ids,
)
from tests.unit.engines.families import greedy
from tests.unit.engines.simulated import expected_tokens, make_engine

from llmos.engines.native import parking
from llmos.engines.native.blocks import BlockPool
from llmos.engines.native.cache import KVCache, LayerShape
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.parking import ParkedBlocks, park, unpark
from llmos.types import GenerateWork, SamplingParams, TokensOut


def answer(engine: NativeEngine, work: GenerateWork) -> tuple[list[int], int]:
    """Return the tokens of a work, and how many of its prompt's were found in the cache."""
    engine.submit("a", work)
    tokens: list[int] = []
    cached_tokens = 0
    while engine.has_work:
        for _, out in engine.step():
            assert isinstance(out, TokensOut)
            tokens += [piece.token_id for piece in out.pieces]
            cached_tokens = max(cached_tokens, out.num_cached)
    return tokens, cached_tokens


def copied(parked: ParkedBlocks | None) -> ParkedBlocks:
    """Return what a model left, once it is in host memory."""
    assert parked is not None
    assert len(list(parked.copy())) >= 1
    return parked


def of_simulated(prompt: tuple[int, ...]) -> GenerateWork:
    return GenerateWork(prompt, SamplingParams(max_tokens=4, temperature=0.0))


class Numbered:
    """A runner whose blocks hold their own numbers, until they are filled."""

    def __init__(self) -> None:
        self.reads: list[int] = []
        self.filled: dict[int, int] = {}

    def read_blocks(self, blocks: Sequence[int]) -> list[torch.Tensor]:
        self.reads.append(len(blocks))
        return [torch.tensor(blocks)[:, None], -torch.tensor(blocks)[:, None]]

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[torch.Tensor]) -> None:
        keys, values = (part[:, 0].tolist() for part in numbers)
        assert values == [-key for key in keys]
        self.filled |= dict(zip(blocks, keys, strict=True))


@pytest.mark.parametrize("num_free", [1, 3, 4, 6, 7, 9])
@pytest.mark.parametrize(("part_bytes", "reads"), [(1, [1] * 7), (39, [3, 3, 1]), (999, [7])])
def test_in_whatever_parts_it_was_copied_the_same_is_put_back(
    part_bytes: int, reads: list[int], num_free: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parking, "PART_BYTES", part_bytes)
    runner, pool = Numbered(), BlockPool(num_free)
    blocks = range(20, 27)
    keys = [bytes([block]) for block in blocks]
    parked = copied(ParkedBlocks(runner, blocks, keys, block_bytes=13))
    assert (runner.reads, parked.num_bytes) == (reads, 7 * 13)
    unpark(runner, pool, parked)
    last = keys[-min(num_free, 7) :]
    assert runner.filled == {
        block: key[0] for block, key in zip(pool.find(last), last, strict=True)
    }


def test_what_is_put_back_is_what_was_there_and_where_it_is_looked_for() -> None:
    first, _ = make_engine(num_blocks=16)
    works = [of_simulated((*range(10), seed)) for seed in range(3)]
    for work in works:
        answer(first, work)
    cached = [answer(first, work)[1] for work in works]
    parked = copied(first.park(10**6))
    second, _ = make_engine(num_blocks=16)
    second.unpark(parked)
    for work, cached_tokens in zip(works, cached, strict=True):
        tokens, found = answer(second, work)  # the network checks every number it reads
        assert tokens == expected_tokens(work)
        assert found == cached_tokens > 0


def test_of_what_does_not_fit_the_prompts_used_last_are_kept() -> None:
    engine, _ = make_engine(num_blocks=32)
    old, new = (of_simulated(tuple((seed + i) % 11 for i in range(13))) for seed in (0, 5))
    answer(engine, old)
    answer(engine, new)
    parked = copied(engine.park(3 * 4 * 4))  # three blocks of four tokens of four bytes
    assert len(parked.keys) == 3
    for work, found in ((new, 12), (old, 0)):
        again, _ = make_engine(num_blocks=32)
        again.unpark(parked)
        assert answer(again, work)[1] == found


def test_where_there_is_less_room_than_before_the_blocks_used_last_are_put_back() -> None:
    engine, runner = make_engine()
    answer(engine, of_simulated(tuple(range(9))))
    parked = copied(engine.park(10**6))
    pool = BlockPool(1)
    unpark(runner, pool, parked)
    assert pool.find(parked.keys[-1:]) == [0]
    assert pool.find(parked.keys[:1]) == []


def test_there_is_nothing_to_keep_of_a_model_that_read_nothing() -> None:
    engine, _ = make_engine()
    assert engine.park(10**6) is None
    assert NativeEngine().park(10**6) is None


def test_fewer_bytes_than_a_block_takes_keep_nothing() -> None:
    engine, runner = make_engine()
    answer(engine, of_simulated(tuple(range(9))))
    assert park(runner, BlockPool(4), 10**6, 16) is None
    assert engine.park(15) is None


def test_blocks_of_a_cache_are_copied_exactly_and_by_number() -> None:
    shapes = {0: LayerShape(2, 4, 4), 1: LayerShape(1, 8, 6)}
    first, second = (KVCache(shapes, 5, 3, torch.float32, torch.device("cpu")) for _ in range(2))
    for layer, shape in shapes.items():
        keys = torch.randn(15, shape.num_kv_heads, shape.key_dim)
        values = torch.randn(15, shape.num_kv_heads, shape.value_dim)
        first.write(layer, torch.arange(15), keys, values)
    second.write_blocks([0, 2], first.read_blocks([4, 1]))
    for layer in shapes:
        taken = first.read(layer, torch.tensor([[4, 1]]))
        given = second.read(layer, torch.tensor([[0, 2]]))
        assert all(torch.equal(one, other) for one, other in zip(taken, given, strict=True))


@pytest.mark.parametrize("is_quantized", [False, True])
def test_a_swap_costs_no_prompt_token_and_changes_no_answer(
    tmp_path: Path, is_quantized: bool
) -> None:
    """Both the cache of torch and that of the extension."""
    if is_quantized:
        needed_extension()
        path, _ = make_quantized(tmp_path, "llama", "int8")
    else:
        path = make_decoder(tmp_path)
    manifest = {
        "engine": "native",
        "task": "generate",
        "context_tokens": 256,
        "vocab_size": VOCAB,
        "digest": "sha256:0",
        "dtype": "int8" if is_quantized else "float32",
        "kv_bytes_per_token": 3 * 2 * 2 * 32 * 4,
        "speculates": False,
    }

    def loaded() -> NativeEngine:
        engine = NativeEngine()
        engine.load(path, manifest, "cpu", 1)
        return engine

    work = greedy(random_ids(70), 8)
    engine = loaded()
    tokens, _ = answer(engine, work)
    again, cached_tokens = answer(engine, work)
    parked = copied(engine.park(10**8))
    engine.unload()
    assert 0 < parked.num_bytes <= 10**8
    engine = loaded()
    engine.unpark(parked)
    assert answer(engine, work) == (again, cached_tokens)
    assert (again, cached_tokens) == (tokens, 64)


def test_the_extensions_blocks_are_copied_by_number(tmp_path: Path) -> None:
    quantized = make_quantized(tmp_path, "llama", "int8")[1]
    first, second = fused(quantized), fused(quantized)
    ids = random_ids(32)
    first.run([chunk("a", ids, 0, [3, 1], 0)])
    second.write_blocks([7, 2], first.read_blocks([3, 1]))
    theirs = first.run([chunk("a", [5], 32, [3, 1, 4], 1)])
    ours = second.run([chunk("a", [5], 32, [7, 2, 0], 1)])
    assert torch.equal(ours, theirs)
