"""The deterministic fake engine: it gives back what it is given. For tests; imports no torch.

A generation repeats its prompt, one token a step, and stops at the end of it; with ``ignore_eos``
it starts over until ``max_tokens``. Sequence tasks return their input; classifiers always pick a
label that the input length gives away; an embedding counts the ids by their remainders. Where the
manifest has ``step_s``, a step takes that long, as a real one would.
"""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmos.engines import base
from llmos.errors import LlmosError
from llmos.types import (
    GenerateWork,
    PipelineOut,
    PipelineWork,
    TokenPiece,
    TokensOut,
    Work,
    WorkOut,
)

VOCAB_SIZE = 2**20
DIMENSIONS = 8


class EchoEngine(base.Engine):
    """Repeats prompts (see ``engines.base.Engine``)."""

    def __init__(self) -> None:
        self._works: dict[str, Work] = {}
        self._num_generated: dict[str, int] = {}
        self._num_labels = 2
        self._context_tokens = base.DEFAULT_CONTEXT_TOKENS
        self._vocab_size = VOCAB_SIZE
        self._step_s = 0.0

    @staticmethod
    def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> base.Estimate:
        """Return zero bytes."""
        return base.Estimate(0)

    def load(self, path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> int:
        """Read sizes from the manifest; ``path`` may be anything."""
        self._num_labels = len(manifest.get("labels") or "ab")
        self._context_tokens = base.context_tokens(manifest)
        self._vocab_size = int(manifest.get("vocab_size") or VOCAB_SIZE)
        self._step_s = float(manifest.get("step_s") or 0.0)
        return 0

    def submit(self, work_id: str, work: Work) -> None:
        """Queue work after the same checks as a real engine's."""
        if isinstance(work, GenerateWork):
            base.check_generate(work, self._vocab_size, self._context_tokens)
            self._num_generated[work_id] = len(work.generated_ids)
        self._works[work_id] = work

    def cancel(self, work_id: str) -> None:
        """Drop the work."""
        self._works.pop(work_id, None)
        self._num_generated.pop(work_id, None)

    @property
    def has_work(self) -> bool:
        return bool(self._works)

    def step(self) -> list[tuple[str, WorkOut | LlmosError]]:
        """Advance every generation by one token and finish every other piece of work."""
        time.sleep(self._step_s)
        outs: list[tuple[str, WorkOut | LlmosError]] = []
        for work_id, work in list(self._works.items()):
            if isinstance(work, PipelineWork):
                outs.append((work_id, self._run(work)))
                self.cancel(work_id)
                continue
            out = self._generate(work_id, work)
            outs.append((work_id, out))
            if out.finish_reason:
                self.cancel(work_id)
        return outs

    def unload(self) -> None:
        """Forget everything."""
        self._works.clear()
        self._num_generated.clear()

    def _generate(self, work_id: str, work: GenerateWork) -> TokensOut:
        params, done = work.sampling, self._num_generated[work_id]
        limit = min(params.max_tokens, self._context_tokens - len(work.prompt_ids))
        if done >= limit:
            return TokensOut(finish_reason="length")
        if done >= len(work.prompt_ids) and not params.ignore_eos:
            return TokensOut(finish_reason="stop")
        token = work.prompt_ids[done % len(work.prompt_ids)]
        if token in work.eos_ids and not params.ignore_eos:
            return TokensOut(finish_reason="stop")
        self._num_generated[work_id] = done + 1
        piece = TokenPiece(token)
        if params.logprobs is not None:
            piece = TokenPiece(token, 0.0, ((token, 0.0),)[: params.logprobs])
        return TokensOut((piece,), "length" if done + 1 >= limit else None)

    def _run(self, work: PipelineWork) -> PipelineOut:
        if work.kind == "seq2seq":
            return PipelineOut(token_ids=work.input_ids)
        if work.kind == "embed":
            return PipelineOut(vector=_counts(work.input_ids, work.options.get("dimensions")))
        if work.kind == "fill_mask":
            count = work.options["top_k"]
            masks = work.input_ids.count(work.options["mask_id"])
            return PipelineOut(tuple(range(1, count + 1)) * masks, ((1 / count,) * count,) * masks)
        if work.kind == "answer":
            middle = len(work.input_ids) // 2
            return PipelineOut(
                scores=(tuple(float(-abs(i - middle)) for i in range(len(work.input_ids))),) * 2
            )
        if work.kind == "rate":
            return PipelineOut(scores=((float(len(work.input_ids)),),))
        if work.kind == "parse":
            return PipelineOut(token_ids=(0, 0, 0), scores=((1.0,),))
        picked = len(work.input_ids) % self._num_labels
        row = tuple(float(i == picked) for i in range(self._num_labels))
        return PipelineOut(scores=(row,) * (1 if work.kind == "classify" else len(work.input_ids)))


def _counts(ids: Sequence[int], dimensions: int | None) -> bytes:
    counts = Counter(token_id % DIMENSIONS for token_id in ids)
    numbers = [float(counts[place]) for place in range(dimensions or DIMENSIONS)]
    return struct.pack(f"<{len(numbers)}f", *numbers)
