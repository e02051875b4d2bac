"""From the chunks of a step to the tokens picked in it: runs them, samples, scores prompts."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Listing
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.predictor import StepCost, StepLoad, chunk_keys
from llmos.engines.native.runner import Runner
from llmos.engines.native.sampler import SampledRow, prompt_logprobs, sample
from llmos.engines.native.sequences import Sequence
from llmos.errors import EngineError
from llmos.types import TokenPiece

P = ParamSpec("P")
R = TypeVar("R")
Placed = tuple[Sequence, RowChunk]
Pieces = list[TokenPiece | None]
"""A sequence's next token, and the one behind each of its drafts; None: not computable."""


def load_of(sequence: Sequence, chunk: RowChunk) -> StepLoad:
    """Return what a chunk is for the prediction of step times, before it is run."""
    num_tokens = len(chunk.token_ids)
    keys = chunk_keys(chunk.start, num_tokens)
    if len(sequence.token_ids) - chunk.start == 1:
        return StepLoad(0, num_tokens, keys)
    return StepLoad(num_tokens, 0, keys)


def total_of(loads: Listing[tuple[str, StepLoad]]) -> StepLoad:
    """Return what loads of tenants are together."""
    return StepLoad(
        sum(load.prefill_tokens for _, load in loads),
        sum(load.decode_tokens for _, load in loads),
        sum(load.keys for _, load in loads),
    )


def shares_of(loads: Listing[tuple[str, StepLoad]], cost: StepCost) -> Mapping[str, float]:
    """Return each tenant's share of their time."""
    shares: dict[str, float] = {}
    for tenant, load in loads:
        share = cost.marginal_s(load) or load.prefill_tokens + load.decode_tokens
        shares[tenant] = shares.get(tenant, 0.0) + share
    whole = sum(shares.values())
    return {tenant: share / whole for tenant, share in shares.items()}


def execute(runner: Runner, placed: Listing[Placed]) -> list[tuple[Sequence, Pieces | EngineError]]:
    """Run the chunks; return what was sampled for the sequences that came to their ends, and
    those for which that failed.

    Raises:
        torch.AcceleratorError: the device failed.
    """
    logits = runner.run([chunk for _, chunk in placed])
    results: list[tuple[Sequence, Pieces | EngineError]] = []
    index: list[int] = []
    sampled: list[tuple[Sequence, list[SampledRow]]] = []
    last = 0
    for sequence, chunk in placed:
        first, last = last, last + chunk.num_logits
        own = sequence.sampled_rows() if chunk.end >= len(sequence.token_ids) else []
        middle = last - len(own)
        if middle > first:
            noted = attempt(_note_prompt, sequence, logits[first:middle])
            if isinstance(noted, EngineError):
                results.append((sequence, noted))
                continue
        if own:
            index += range(middle, last)
            sampled.append((sequence, own))
    if sampled:
        results += _sample(logits if len(index) == len(logits) else logits[index], sampled)
    return results


def _sample(
    logits: Tensor, sampled: Listing[tuple[Sequence, list[SampledRow]]]
) -> list[tuple[Sequence, Pieces | EngineError]]:
    """Sample all rows at once, or where that fails each sequence's by themselves, to fail alone."""
    pieces = attempt(sample, logits, [row for _, own in sampled for row in own])
    results: list[tuple[Sequence, Pieces | EngineError]] = []
    last = 0
    for sequence, own in sampled:
        first, last = last, last + len(own)
        if isinstance(pieces, EngineError):
            results.append((sequence, attempt(sample, logits[first:last], own)))
        else:
            results.append((sequence, pieces[first:last]))
    return results


def attempt(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | EngineError:
    """Return what a function returns, or as an error for one row what it raises.

    A panic of the grammars' library is not even an Exception. A lost device is everybody's.
    """
    try:
        return function(*args, **kwargs)
    except (torch.AcceleratorError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        traceback.print_exc()
        return EngineError(f"The next token could not be picked: {error}")


def _note_prompt(sequence: Sequence, logits: Tensor) -> None:
    """Keep the log-probabilities of the prompt tokens that come after those known."""
    count = sequence.work.prompt_logprobs
    assert count is not None
    first = len(sequence.prompt_pieces) + 1
    next_ids = sequence.work.prompt_ids[first : first + len(logits)]
    sequence.prompt_pieces += prompt_logprobs(logits, next_ids, count)


def accepted(drafts: list[int], pieces: list[TokenPiece | None]) -> list[TokenPiece | None]:
    """Return the pieces up to the first that differs from its draft: those behind are void."""
    for count, (draft, piece) in enumerate(zip(drafts, pieces, strict=False), start=1):
        if piece is None or piece.token_id != draft:
            return pieces[:count]
    return pieces
