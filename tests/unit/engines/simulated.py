"""A network that is none: it checks what it finds in its cache, and time is what it says it is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.engine import NativeEngine
from llmos.engines.native.predictor import FREE, StepCost, StepLoad, chunk_keys
from llmos.engines.native.sampler import SampledRow, sample
from llmos.engines.native.served import ServedModel
from llmos.types import GenerateWork, TokensOut

VOCAB = 11
COST = StepCost(step_s=0.020, prefill_token_s=0.002, decode_token_s=0.003, key_s=1e-6)
"""About a 0.5B network on two cores."""


def logits_after(token_ids: Sequence[int]) -> np.ndarray[Any, Any]:
    """The simulated network: mostly the last token decides, a little all that came before."""
    last, whole = bytes([token_ids[-1]]), bytes(token_ids)
    return _noise(last) * 2 + _noise(whole)


def _noise(seed: bytes) -> np.ndarray[Any, Any]:
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(seed)))
    return generator.standard_normal(VOCAB, dtype=np.float32)


def expected_tokens(work: GenerateWork) -> list[int]:
    """What the network continues a work with, undisturbed."""
    ids = [*work.prompt_ids, *work.generated_ids]
    first = len(ids)
    while len(ids) - len(work.prompt_ids) < work.sampling.max_tokens:
        row = SampledRow(work.sampling, work.choice, ids, len(work.prompt_ids))
        piece = sample(torch.from_numpy(logits_after(ids))[None], [row])[0]
        assert piece is not None
        ids = [*ids, piece.token_id]
    return ids[first:]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class SimulatedRunner:
    """Keeps in each slot a hash of all tokens up to its own, as keys and values depend on them.

    Args:
        truth: the tokens of a row, drafts included; what is read must be theirs.
    """

    truth: Callable[[str], Sequence[int]]
    clock: Clock = field(default_factory=Clock)
    cost: StepCost = COST
    is_paged: bool = True
    kv_bytes_per_token: int = 4
    broken: set[str] = field(default_factory=set)
    """Rows whose numbers are not finite."""
    checks: bool = True
    steps: list[tuple[float, list[RowChunk]]] = field(default_factory=list)
    """When each step ended, and what it was."""
    slots: dict[tuple[int, int], int | None] = field(default_factory=dict)
    block_size: int = 4

    def allocate(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size

    def run(self, chunks: Sequence[RowChunk]) -> Tensor:
        self._take_time(chunks)
        if not self.checks:
            return torch.zeros(sum(chunk.num_logits for chunk in chunks), VOCAB)
        for chunk in chunks:
            ids = list(self.truth(chunk.id))[: chunk.end]
            assert list(chunk.token_ids) == ids[chunk.start :]
            for position in range(chunk.start, chunk.end):
                value = None if chunk.id in self.broken else zlib.crc32(bytes(ids[: position + 1]))
                self.slots[self._slot(chunk, position)] = value
        rows = []
        for chunk in chunks:
            ids = list(self.truth(chunk.id))[: chunk.end]
            found = [self.slots.get(self._slot(chunk, p)) for p in range(chunk.end)]
            is_finite = None not in found
            if is_finite:
                assert found == [zlib.crc32(bytes(ids[: p + 1])) for p in range(chunk.end)]
            for position in range(chunk.end - chunk.num_logits, chunk.end):
                row = logits_after(ids[: position + 1])
                rows.append(row if is_finite else np.full_like(row, np.nan))
        return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, VOCAB)

    def _take_time(self, chunks: Sequence[RowChunk]) -> None:
        num_prefill = sum(len(c.token_ids) for c in chunks if not self._decodes(c))
        num_decode = sum(len(c.token_ids) for c in chunks) - num_prefill
        keys = sum(chunk_keys(c.start, len(c.token_ids)) for c in chunks)
        self.clock.now += self.cost.seconds(StepLoad(num_prefill, num_decode, keys))
        self.steps.append((self.clock.now, list(chunks)))

    def _decodes(self, chunk: RowChunk) -> bool:
        return chunk.num_logits == len(chunk.token_ids)

    def _slot(self, chunk: RowChunk, position: int) -> tuple[int, int]:
        return chunk.blocks[position // self.block_size], position % self.block_size

    def forget(self, row_id: str, blocks: Sequence[int], *, clear: bool) -> None:
        if clear:
            self.slots = {slot: v for slot, v in self.slots.items() if slot[0] not in set(blocks)}

    def read_blocks(self, blocks: Sequence[int]) -> list[Tensor]:
        offsets = range(self.block_size)
        return [torch.tensor([[self.slots[block, i] for i in offsets] for block in blocks])]

    def write_blocks(self, blocks: Sequence[int], numbers: Sequence[Tensor]) -> None:
        for block, values in zip(blocks, numbers[0].tolist(), strict=True):
            self.slots |= {(block, i): value for i, value in enumerate(values)}

    def load_adapter(self, key: str, path: Path) -> int:
        return 0

    def drop_adapter(self, key: str) -> None:
        pass


def make_engine(
    num_blocks: int = 64,
    max_tokens: int = 64,
    cost: StepCost = COST,
    prior: StepCost = FREE,
    **options: Any,
) -> tuple[NativeEngine, SimulatedRunner]:
    """An engine over a simulated network, with a clock that only its steps move."""

    def truth(row_id: str) -> list[int]:
        assert engine._sequences is not None
        sequence = engine._sequences[row_id]
        return [*sequence.token_ids, *sequence.drafts]

    runner = SimulatedRunner(truth, cost=cost)
    engine = NativeEngine(**{"block_size": 4, "clock": runner.clock} | options)
    runner.block_size = engine._block_size
    engine.serve(ServedModel(runner, num_blocks, VOCAB, max_tokens, prior=prior))
    return engine, runner


def drain(engine: NativeEngine, most: int = 5000) -> dict[str, list[int]]:
    """Step until there is no work; return the tokens of each row that ended well."""
    tokens: dict[str, list[int]] = {}
    for _ in range(most):
        if not engine.has_work:
            return tokens
        for work_id, out in engine.step():
            if isinstance(out, TokensOut):
                tokens.setdefault(work_id, []).extend(p.token_id for p in out.pieces)
    raise AssertionError("the engine does not come to an end")
