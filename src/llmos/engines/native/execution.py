"""From the chunks of a step to the tokens picked in it: runs them, samples, scores prompts."""

from __future__ import annotations

from collections.abc import Sequence as Listing

from torch import Tensor

from llmos.engines.native.attention import RowChunk
from llmos.engines.native.predictor import StepLoad, chunk_keys
from llmos.engines.native.runner import Runner
from llmos.engines.native.sampler import prompt_logprobs, sample
from llmos.engines.native.sequences import Sequence
from llmos.types import TokenPiece

Placed = tuple[Sequence, RowChunk]
Sampled = tuple[Sequence, list[TokenPiece | None]]
"""A sequence with its next token, and the one behind each of its drafts; None: not computable."""


def load_of(sequence: Sequence, chunk: RowChunk) -> StepLoad:
    """Return what a chunk is for the prediction of step times, before it is run."""
    num_tokens = len(chunk.token_ids)
    keys = chunk_keys(chunk.start, num_tokens)
    if len(sequence.token_ids) - chunk.start == 1:
        return StepLoad(0, num_tokens, keys)
    return StepLoad(num_tokens, 0, keys)


def execute(runner: Runner, placed: Listing[Placed]) -> list[Sampled]:
    """Run the chunks; return what was sampled for the sequences that came to their ends.

    Raises:
        torch.AcceleratorError: the device failed.
    """
    logits = runner.run([chunk for _, chunk in placed])
    index: list[int] = []
    rows, sampled = [], []
    last = 0
    for sequence, chunk in placed:
        first, last = last, last + chunk.num_logits
        own = sequence.sampled_rows() if chunk.end >= len(sequence.token_ids) else []
        middle = last - len(own)
        if middle > first:
            _note_prompt(sequence, logits[first:middle])
        if own:
            index += range(middle, last)
            rows += own
            sampled.append(sequence)
    if not rows:
        return []
    pieces = iter(sample(logits if len(index) == len(logits) else logits[index], rows))
    return [(s, [next(pieces) for _ in range(len(s.drafts) + 1)]) for s in sampled]


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
