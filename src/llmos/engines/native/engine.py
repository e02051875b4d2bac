"""The native engine: sequences in, tokens out, one batched step at a time.

It keeps the sequences, asks ``batcher.plan`` what to compute, the runner to compute it and the
sampler to pick; it decides nothing about order or memory itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from llmos.engines import base
from llmos.engines.loading import load_pretrained, release_memory, resident_bytes, set_threads
from llmos.engines.native import batcher
from llmos.engines.native.attention import RowChunk
from llmos.engines.native.cache import BlockPool
from llmos.engines.native.probe import make_runner
from llmos.engines.native.runner import Runner
from llmos.engines.native.sampler import SampledRow, sample
from llmos.errors import EngineError, LlmosError, OutOfMemoryError, UnsupportedTaskError
from llmos.types import FinishReason, GenerateWork, TokenPiece, TokensOut, Work, WorkOut

GPU_STEP_TOKENS = 2048
CPU_STEP_FLOPS = 50 * 10**9
"""About half a second of two cores; a network takes two per parameter and token."""
MIN_STEP_TOKENS, MAX_STEP_TOKENS = 64, 512


@dataclass(slots=True)
class Sequence:
    """One GenerateWork under way: its tokens so far, and how many of them are in the cache."""

    id: str
    work: GenerateWork
    arrival: int
    token_ids: list[int] = field(init=False)
    num_cached: int = 0
    blocks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token_ids = [*self.work.prompt_ids, *self.work.generated_ids]

    @property
    def num_prompt(self) -> int:
        return len(self.work.prompt_ids)

    @property
    def num_generated(self) -> int:
        return len(self.token_ids) - self.num_prompt

    def row(self) -> batcher.Row:
        return batcher.Row(
            id=self.id,
            priority=self.work.priority,
            arrival=self.arrival,
            num_tokens=len(self.token_ids),
            num_cached=self.num_cached,
            num_blocks=len(self.blocks),
        )

    def sampled_row(self) -> SampledRow:
        return SampledRow(self.work.sampling, self.work.choice, self.token_ids, self.num_prompt)


class NativeEngine:
    """Continuous batching over any transformers decoder (see ``engines.base.Engine``).

    Args:
        block_size: tokens in a block of the KV cache.
        max_rows: rows computed at once; the others wait.
        max_step_tokens: tokens computed in one step; longer prompts take several. None: as many
            as the device computes in a moment.
    """

    def __init__(
        self, *, block_size: int = 16, max_rows: int = 64, max_step_tokens: int | None = None
    ) -> None:
        self._block_size = block_size
        self._max_rows = max_rows
        self._max_step_tokens = max_step_tokens
        self._sequences: dict[str, Sequence] = {}
        self._ready: list[tuple[str, WorkOut | LlmosError]] = []
        self._num_arrived = 0
        self._runner: Runner | None = None
        self._pool = BlockPool(0)
        self._vocab_size = 0
        self._max_tokens = 0

    @staticmethod
    def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> base.Estimate:
        """Return weights and KV cache at the dtype the device computes in."""
        return base.estimate({**manifest, "engine": "native"}, device)

    def load(self, path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> int:
        """Load weights, check the runner against the model, make the KV cache."""
        set_threads(threads)
        try:
            model = load_pretrained(
                AutoModelForCausalLM, path, manifest, device, attn_implementation="eager"
            )
            runner = make_runner(model)
            per_token = runner.kv_bytes_per_token
            per_token = per_token or self.estimate(manifest, device).kv_bytes_per_token
            num_tokens = base.kv_cache_tokens(manifest, per_token)
            num_blocks = max(1, num_tokens // self._block_size)
            runner.allocate(num_blocks, self._block_size)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"The model does not fit on {device}: {error}") from error
        self._pool = BlockPool(num_blocks)
        self._runner = runner
        self._vocab_size = model.get_input_embeddings().weight.shape[0]
        capacity = num_blocks * self._block_size
        config = model.config.get_text_config()
        positions = getattr(config, "max_position_embeddings", None) or capacity
        self._max_tokens = min(base.context_tokens(manifest), positions, capacity)
        if self._max_step_tokens is None:
            self._max_step_tokens = _step_tokens(model.num_parameters(), device)
        return resident_bytes(model) + capacity * per_token

    def submit(self, work_id: str, work: Work) -> None:
        """Queue a sequence; it joins the batch at a next step."""
        if not isinstance(work, GenerateWork):
            raise UnsupportedTaskError("This model generates text; it cannot do that task.")
        base.check_generate(work, self._vocab_size, self._max_tokens)
        sequence = Sequence(work_id, work, self._num_arrived)
        self._num_arrived += 1
        if self._is_full(sequence):
            self._ready.append((work_id, TokensOut(finish_reason="length")))
        else:
            self._sequences[work_id] = sequence

    def cancel(self, work_id: str) -> None:
        """Drop a sequence and give its blocks back."""
        if sequence := self._sequences.pop(work_id, None):
            self._release(sequence)
        self._ready = [(other, out) for other, out in self._ready if other != work_id]

    @property
    def has_work(self) -> bool:
        return bool(self._sequences or self._ready)

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Compute one batch; report at most one token per sequence."""
        outs, self._ready = self._ready, []
        if not self._sequences:
            return outs
        plan = batcher.plan(self._state())
        for row_id in plan.preempted:
            self._release(self._sequences[row_id])
        chunks = [self._chunk(chunk) for chunk in plan.chunks]
        assert self._runner is not None
        try:
            logits = self._runner.run(chunks)
            sampled = [self._sequences[chunk.id] for chunk in chunks if chunk.is_sampled]
            rows = [sequence.sampled_row() for sequence in sampled]
            pieces = sample(logits, rows) if rows else []
        except torch.AcceleratorError as error:
            raise base.DeviceLostError(f"The device failed: {error}") from error
        for sequence, piece in zip(sampled, pieces, strict=True):
            outs.append((sequence.id, self._advance(sequence, piece)))
        return outs

    def unload(self) -> None:
        """Free weights and cache."""
        self._sequences.clear()
        self._ready.clear()
        self._runner = None
        release_memory()

    def _state(self) -> batcher.State:
        rows = [sequence.row() for sequence in self._sequences.values()]
        max_step_tokens = self._max_step_tokens
        assert max_step_tokens is not None, "no model is loaded"
        return batcher.State(
            running=tuple(row for row in rows if row.num_blocks),
            waiting=tuple(row for row in rows if not row.num_blocks),
            free_blocks=self._pool.num_free,
            block_size=self._block_size,
            max_step_tokens=max_step_tokens,
            max_rows=min(self._max_rows, max_step_tokens),
        )

    def _chunk(self, chunk: batcher.Chunk) -> RowChunk:
        """Give a planned chunk its blocks and count its tokens as cached."""
        sequence = self._sequences[chunk.id]
        sequence.blocks += self._pool.allocate(chunk.num_new_blocks)
        start = sequence.num_cached
        end = sequence.num_cached = start + chunk.num_tokens
        token_ids = sequence.token_ids[start:end]
        is_sampled = end == len(sequence.token_ids)
        return RowChunk(sequence.id, token_ids, start, sequence.blocks, is_sampled)

    def _advance(self, sequence: Sequence, piece: TokenPiece | None) -> TokensOut | EngineError:
        """Append a sampled token and say what to report. The end token itself is not reported."""
        if piece is None:
            self._finish(sequence, clear=True)
            return EngineError("The model computed numbers that are not finite.")
        work = sequence.work
        if piece.token_id in work.eos_ids and not work.sampling.ignore_eos:
            self._finish(sequence)
            return TokensOut(finish_reason="stop")
        sequence.token_ids.append(piece.token_id)
        reason: FinishReason | None = None
        if self._is_full(sequence):
            reason = "length"
            self._finish(sequence)
        return TokensOut((piece,), reason)

    def _is_full(self, sequence: Sequence) -> bool:
        return (
            sequence.num_generated >= sequence.work.sampling.max_tokens
            or len(sequence.token_ids) >= self._max_tokens
        )

    def _finish(self, sequence: Sequence, *, clear: bool = False) -> None:
        self._release(self._sequences.pop(sequence.id), clear=clear)

    def _release(self, sequence: Sequence, *, clear: bool = False) -> None:
        """Take a sequence out of the cache; if it stays, it is computed again from the start."""
        if self._runner is not None:
            self._runner.forget(sequence.id, sequence.blocks, clear=clear)
        self._pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.num_cached = 0


def _step_tokens(num_parameters: int, device: str) -> int:
    """Return how many tokens a step may have, for the streams of other models not to wait long."""
    if device.partition(":")[0] != "cpu":
        return GPU_STEP_TOKENS
    tokens = CPU_STEP_FLOPS // (2 * max(1, num_parameters))
    return min(max(tokens, MIN_STEP_TOKENS), MAX_STEP_TOKENS)
