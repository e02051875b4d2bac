"""The native engine: sequences in, tokens out, one batched step at a time.

It asks ``batcher.plan`` what to compute, the runner to compute it and the sampler to pick; it
decides nothing about order or memory itself.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Listing
from pathlib import Path
from typing import Any

import msgspec
import torch

from llmos.engines import base
from llmos.engines.loading import release_memory
from llmos.engines.native import batcher
from llmos.engines.native.compiling import CompilingWorks
from llmos.engines.native.execution import (
    Pieces,
    accepted,
    attempt,
    execute,
    load_of,
    shares_of,
    total_of,
)
from llmos.engines.native.parking import ParkedBlocks, park, unpark
from llmos.engines.native.predictor import FREE, Predictor, StepLoad
from llmos.engines.native.runner import Runner
from llmos.engines.native.sequences import Sequence, Sequences
from llmos.engines.native.served import ServedModel, load_model
from llmos.engines.native.speculation import PromptLookup, Speculator
from llmos.errors import (
    DeadlineExceededError,
    EngineError,
    LlmosError,
    OutOfMemoryError,
    UnsupportedTaskError,
)
from llmos.types import (
    EngineStats,
    FinishReason,
    GenerateWork,
    Priority,
    TokenPiece,
    TokensOut,
    Work,
    WorkOut,
)

ITL_TARGET_MS = 200
LOGITS_BYTES = 2**26
"""What the logits of prompts whose log-probabilities are wanted may take in a step."""
AGEING_TOKENS = 8192
TENANT_LEAD_MS = 1000.0
"""So much more compute than another of its class a tenant may have had and keep its rows."""

Reports = list[tuple[str, WorkOut | LlmosError]]


class NativeEngine(base.Engine):
    """Continuous batching over any transformers decoder (see ``engines.base.Engine``).

    Args:
        block_size: tokens in a block of the KV cache.
        max_rows: rows computed at once; the others wait.
        max_step_tokens: tokens computed in one step at most.
        itl_target_s: time from token to token that rows of the upper classes should see at most.
            None: as the environment says (LLMOS_ITL_TARGET_MS), else 200 ms.
        ageing_tokens: computed for others until a class that was held back gets a row through.
        speculates: whether to guess tokens where it pays; a manifest may say no, too.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        block_size: int = 16,
        max_rows: int = 64,
        max_step_tokens: int = base.MAX_STEP_TOKENS,
        itl_target_s: float | None = None,
        ageing_tokens: int = AGEING_TOKENS,
        speculates: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._block_size = block_size
        self._max_rows = min(max_rows, max_step_tokens)
        self._max_step_tokens = max_step_tokens
        target_ms = float(os.environ.get("LLMOS_ITL_TARGET_MS", ITL_TARGET_MS))
        self._itl_target_s = target_ms / 1000 if itl_target_s is None else itl_target_s
        self._ageing_tokens = ageing_tokens
        self._speculates = speculates
        self._clock = clock
        self._ready: Reports = []
        self._virtual_ms: Mapping[str, float] = {}
        self._step_limit_s = math.inf
        self._wake: Callable[[], None] = lambda: None
        self._shares: Mapping[str, float] = {}
        self._prompt_tokens = self._generated_tokens = 0
        self._speculator: Speculator | None = None
        self._compiling: CompilingWorks | None = None
        self._predictor = Predictor(FREE)
        self._adapters: set[str] = set()
        self._runner: Runner | None = None
        self._sequences: Sequences | None = None
        self._vocab_size = self._max_tokens = 0

    @staticmethod
    def estimate(manifest: Mapping[str, Any], device: str = "cpu") -> base.Estimate:
        """Return weights and KV cache at the dtype the device computes in."""
        return base.estimate({**manifest, "engine": "native"}, device)

    def load(self, path: Path, manifest: Mapping[str, Any], device: str, threads: int) -> int:
        """Load weights, check the runner against the model, make the KV cache."""
        self._speculates = self._speculates and bool(manifest.get("speculates", True))
        model = load_model(path, manifest, device, threads, self._block_size)
        self.serve(model)
        return model.num_bytes

    def serve(self, model: ServedModel) -> None:
        """Take work for a loaded model from here on."""
        self._runner = model.runner
        self._sequences = Sequences(
            model.runner, model.num_blocks, self._block_size, model.digest, self._itl_target_s
        )
        self._vocab_size = model.vocab_size
        self._max_tokens = model.max_tokens
        self._predictor = Predictor(model.prior)
        if model.grammars:
            self._compiling = CompilingWorks(model.grammars, lambda: self._wake())
        if self._speculates and model.runner.is_paged:
            self._speculator = Speculator(model.drafter or PromptLookup())

    def submit(self, work_id: str, work: Work) -> None:
        """Queue a sequence; it joins the batch at a next step."""
        if not isinstance(work, GenerateWork):
            raise UnsupportedTaskError("This model generates text; it cannot do that task.")
        base.check_generate(work, self._vocab_size, self._max_tokens)
        if work.adapter and work.adapter not in self._adapters:
            raise EngineError("The adapter is not loaded.")
        assert self._sequences is not None, "no model is loaded"
        if work.grammar is not None:
            assert self._compiling is not None, "a model without words was loaded"
            self._compiling.start(work_id, work, self._clock())
            return
        sequence = self._sequences.add(work_id, work, self._clock())
        if self._num_missing(sequence) <= 0 and not sequence.wants_prompt:
            self._sequences.remove(sequence)
            self._ready.append((work_id, TokensOut(finish_reason="length")))

    def cancel(self, work_id: str) -> None:
        """Drop a sequence and give its blocks back."""
        if self._sequences and (sequence := self._sequences.get(work_id)):
            self._remove(sequence)
        if self._compiling:
            self._compiling.cancel(work_id)
        self._ready = [(other, out) for other, out in self._ready if other != work_id]

    @property
    def has_work(self) -> bool:
        """Works whose grammars are being compiled are none for a step: they ``wake`` the host."""
        done = self._compiling is not None and self._compiling.done()
        return bool(self._sequences or self._ready or done)

    def step(self) -> Reports:
        """Compute one batch; report the tokens of the sequences that got any."""
        outs, self._ready = self._ready, []
        self._shares = {}
        begun = self._clock()
        if self._sequences is not None:
            outs += self._join(self._sequences, begun)
            outs += self._expire(self._sequences, begun)
        if not self._sequences:
            return outs
        self._speculate(self._sequences, begun)
        drafted = self._clock()
        state = self._state(self._sequences, drafted - begun)
        placed = self._sequences.place(state, batcher.plan(state))
        loads = [(sequence.work.tenant, load_of(sequence, chunk)) for sequence, chunk in placed]
        assert self._runner is not None
        try:
            sampled = execute(self._runner, placed)
        except BaseException as error:
            self._sequences.doubt(placed)
            if isinstance(error, torch.AcceleratorError):
                raise base.DeviceLostError(f"The device failed: {error}") from error
            raise
        self._sequences.advance(placed)
        outs += [(sequence.id, self._settle(sequence, pieces)) for sequence, pieces in sampled]
        self._account(loads, self._clock() - drafted)
        return outs

    def unload(self) -> None:
        """Free weights and cache."""
        self._ready.clear()
        if self._compiling:
            self._compiling.close()
        self._compiling = None
        self._sequences = None
        self._speculator = None
        self._runner = None
        release_memory()

    def park(self, max_bytes: int) -> ParkedBlocks | None:
        """Return the cached prefixes used last, as many as fit, to be copied."""
        if self._runner is None or self._sequences is None:
            return None
        block_bytes = self._runner.kv_bytes_per_token * self._block_size
        return park(self._runner, self._sequences.pool, max_bytes, block_bytes)

    def unpark(self, parked: ParkedBlocks) -> None:
        """Find these prefixes again from here on."""
        assert self._runner is not None and self._sequences is not None, "no model is loaded"
        unpark(self._runner, self._sequences.pool, parked)

    def load_adapter(self, key: str, path: Path) -> int:
        """Read an adapter for works that name its key; return its bytes on the device."""
        assert self._runner is not None, "no model is loaded"
        try:
            num_bytes = self._runner.load_adapter(key, path)
        except torch.OutOfMemoryError as error:
            raise OutOfMemoryError(f"The adapter does not fit: {error}") from error
        self._adapters.add(key)
        return num_bytes

    def drop_adapter(self, key: str) -> None:
        """Forget an adapter that no work uses."""
        self._adapters.discard(key)
        if self._runner is not None:
            self._runner.drop_adapter(key)

    # -- what the host asks ----------------------------------------------------------------------

    def urgency(self, now: float) -> base.Urgency:
        """Return how soon a token or an answer is due, and for whom there is work."""
        if not self._sequences:
            works = self._compiling.done() if self._compiling else []
            best = min((work.priority for work in works), default=Priority.STANDARD)
            return base.Urgency(0.0 if works or self._ready else math.inf, best)
        return self._sequences.urgency(now)

    def last_shares(self) -> Mapping[str, float]:
        """Return each tenant's share of what the last step computed."""
        return self._shares

    def set_virtual_times(self, virtual_ms: Mapping[str, float]) -> None:
        """Rank rows of a class by their tenants' virtual times from here on."""
        self._virtual_ms = virtual_ms

    def set_step_limit(self, seconds: float) -> None:
        """Plan steps, from here on, that take no longer."""
        self._step_limit_s = seconds

    def set_waker(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when a grammar is compiled, from the thread that did it."""
        self._wake = wake

    def stats(self) -> EngineStats:
        """Return counts of rows, blocks and tokens."""
        sequences, speculator = self._sequences, self._speculator
        if sequences is None:
            return EngineStats()
        return msgspec.structs.replace(
            sequences.stats(),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated_tokens,
            draft_tokens=speculator.num_drafted if speculator else 0,
            accepted_tokens=speculator.num_accepted if speculator else 0,
        )

    # -- a step ----------------------------------------------------------------------------------

    def _join(self, sequences: Sequences, now: float) -> Reports:
        """Let the works whose grammars are ready join the others."""
        failed: Reports = []
        for compiling, outcome in self._compiling.take_done(now) if self._compiling else ():
            if isinstance(outcome, LlmosError):
                failed.append((compiling.id, outcome))
            else:
                sequences.add(compiling.id, compiling.work, compiling.submitted_s, outcome)
        return failed

    def _expire(self, sequences: Sequences, now: float) -> Reports:
        """Give up the sequences whose deadline has passed."""
        late = sequences.expired(now)
        for sequence in late:
            self._remove(sequence)
        return [(sequence.id, DeadlineExceededError()) for sequence in late]

    def _speculate(self, sequences: Sequences, begun: float) -> None:
        if self._speculator is None:
            return
        decoding = [s for s in sequences.active if len(s.token_ids) - s.num_cached == 1]
        room = [0 if s.grammar else self._num_missing(s) - 1 for s in decoding]
        num_drafts = self._speculator.propose(decoding, room, self._predictor.cost)
        self._speculator.observe_time(num_drafts, self._clock() - begun)

    def _state(self, sequences: Sequences, spent_s: float) -> batcher.State:
        return batcher.State(
            running=sequences.running(self._virtual_ms),
            waiting=sequences.waiting(self._virtual_ms, self._max_rows),
            free_blocks=sequences.pool.num_free,
            block_size=self._block_size,
            max_step_tokens=self._max_step_tokens,
            max_rows=self._max_rows,
            max_step_logits=max(1, LOGITS_BYTES // (4 * self._vocab_size)),
            cost=self._predictor.cost,
            itl_target_s=self._itl_target_s,
            step_limit_s=self._step_limit_s,
            tenant_lead=TENANT_LEAD_MS,
            steps_since_yield=sequences.steps_since_yield,
            spent_s=spent_s,
            held_back_tokens=tuple(sequences.held_back_tokens),
            ageing_tokens=self._ageing_tokens,
        )

    def _settle(self, sequence: Sequence, pieces: Pieces | EngineError) -> WorkOut | LlmosError:
        """Return what to report of a sequence; whatever is wrong with it is its own failure."""
        if not isinstance(pieces, EngineError):
            out = attempt(self._advance, sequence, pieces)
            if not isinstance(out, EngineError):
                return out
            pieces = out
        assert self._sequences is not None
        if self._sequences.get(sequence.id) is sequence:
            self._remove(sequence)
        return pieces

    def _advance(self, sequence: Sequence, pieces: Pieces) -> WorkOut | LlmosError:
        """Append the tokens and say what to report. The end token itself is not reported."""
        drafts, sequence.drafts = sequence.drafts, []
        taken = accepted(drafts, pieces)
        if drafts and self._speculator:
            self._speculator.observe(sequence, len(drafts), len(taken) - 1)
        sequence.is_proven = None not in pieces
        # Behind the last token that was right, the cache is simply written again.
        sequence.num_cached += len(taken) - 1
        kept: list[TokenPiece] = []
        reason: FinishReason | None = "length" if self._num_missing(sequence) <= 0 else None
        for piece in taken if reason is None else ():
            if piece is None and not (sequence.grammar and sequence.grammar.is_finished):
                return self._fail(sequence)
            reason = self._take(sequence, piece, kept) if piece else "stop"
            if reason is not None:
                break
        sequence.last_token_s = self._clock()
        self._generated_tokens += len(kept)
        sequence.num_cached = min(sequence.num_cached, len(sequence.token_ids))
        if reason is not None:
            self._remove(sequence)
        elif self._sequences is not None:
            self._sequences.publish(sequence)
        return sequence.report(tuple(kept), reason)

    def _take(
        self, sequence: Sequence, piece: TokenPiece, kept: list[TokenPiece]
    ) -> FinishReason | None:
        """Append one token, unless it is the end; return why the sequence ends, if it does."""
        work = sequence.work
        if sequence.grammar:
            sequence.grammar.accept(piece.token_id)
        if piece.token_id in work.eos_ids and not work.sampling.ignore_eos:
            return "stop"
        sequence.token_ids.append(piece.token_id)
        kept.append(piece)
        if sequence.grammar and sequence.grammar.is_finished:
            return "stop"
        return "length" if self._num_missing(sequence) <= 0 else None

    def _fail(self, sequence: Sequence) -> LlmosError:
        """Drop a sequence that has no next token."""
        refusal = sequence.grammar.error if sequence.grammar else None
        self._remove(sequence, is_poisoned=refusal is None)
        return refusal or EngineError("The model computed numbers that are not finite.")

    def _account(self, loads: Listing[tuple[str, StepLoad]], seconds: float) -> None:
        """Learn how long the step took, and whose it was."""
        total = total_of(loads)
        self._prompt_tokens += total.prefill_tokens
        self._predictor.observe(total, seconds)
        self._shares = shares_of(loads, self._predictor.cost)

    def _remove(self, sequence: Sequence, *, is_poisoned: bool = False) -> None:
        assert self._sequences is not None
        self._sequences.remove(sequence, is_poisoned=is_poisoned)
        if self._speculator:
            self._speculator.forget(sequence.id)

    def _num_missing(self, sequence: Sequence) -> int:
        """Tokens until the sequence ends at the latest."""
        return min(
            sequence.work.sampling.max_tokens - sequence.num_generated,
            self._max_tokens - len(sequence.token_ids),
        )
