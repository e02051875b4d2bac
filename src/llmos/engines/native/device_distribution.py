"""All rows' distributions at once, for devices where launching a kernel costs more than its work.

The same rule as ``distribution``, which has it for one row on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmos.engines.native.distribution import FIRST_CANDIDATES
from llmos.types import SamplingParams, TokenPiece


def pick(scores: Tensor, params: Sequence[SamplingParams], numbers: Sequence[float]) -> Tensor:
    """Return the token of each row of ``scores`` ``[R, vocab]`` at its number in [0, 1)."""
    probs = filtered_probs(scores, params)
    cdf = probs.cumsum(dim=-1)
    total = cdf[:, -1]
    target = torch.tensor(numbers, dtype=probs.dtype, device=probs.device) * total
    # Rounding must not reach the total itself, past the last token that is possible.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cdf, target[:, None], right=True)[:, 0]


def filtered_probs(scores: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Return the probabilities left after temperature, top-k, top-p and min-p, not renormalised.

    Shapes ``[R, vocab]`` in and out. Tokens that tie with the last one kept are kept too.
    """
    dtype = torch.float32 if scores.device.type == "mps" else torch.float64

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=scores.device)[:, None]

    centred = scores.to(dtype) - scores.amax(dim=-1, keepdim=True).to(dtype)
    probs = torch.softmax(centred / column([p.temperature for p in params]), dim=-1)
    vocab = probs.shape[-1]
    top_k = [p.top_k if 0 < p.top_k < vocab else vocab for p in params]
    top_p = [p.top_p for p in params]
    least = column([p.min_p for p in params]) * probs.amax(dim=-1, keepdim=True)
    if min(top_k) < vocab or min(top_p) < 1:
        width = max((k for k, p in zip(top_k, top_p, strict=True) if k < vocab), default=0)
        if any(k == vocab and p < 1 for k, p in zip(top_k, top_p, strict=True)):
            width = max(width, min(vocab, FIRST_CANDIDATES))
        threshold, is_enough = _threshold(probs, width, column(top_k), column(top_p))
        if not is_enough:
            threshold, _ = _threshold(probs, vocab, column(top_k), column(top_p))
        least = torch.maximum(least, threshold)
    return probs.masked_fill(probs < least, 0)


def _threshold(probs: Tensor, width: int, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, bool]:
    """Return the smallest probability kept per row ``[R, 1]``, looking at the ``width`` likeliest.

    Also whether that many were enough to know.
    """
    vocab = probs.shape[-1]
    top = probs.topk(width, dim=-1).values
    in_k = torch.arange(width, device=probs.device) < top_k
    last = top.gather(1, (top_k.long() - 1).clamp(max=width - 1))
    mass = torch.where(top_k < vocab, probs.masked_fill(probs < last, 0).sum(-1, keepdim=True), 1.0)
    before = top.cumsum(dim=-1) - top
    is_kept = in_k & ((before < top_p * mass) | (top_p >= 1))
    is_kept[:, 0] = True
    threshold = top.masked_fill(~is_kept, torch.inf).amin(dim=-1, keepdim=True)
    is_free = (top_k >= vocab) & (top_p >= 1)
    is_open = is_kept[:, -1:] & ~is_free & (top_k > width)
    return threshold.masked_fill(is_free, 0), width == vocab or not bool(is_open.any())


def pieces(logits: Tensor, token_ids: Sequence[int], counts: Sequence[int]) -> list[TokenPiece]:
    """Return each row's token with its log-probability and those of the ``counts`` likeliest."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    chosen = torch.tensor(token_ids, device=logits.device)
    chosen_logprobs = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
    top = logprobs.topk(min(max(counts), logprobs.shape[-1]), dim=-1)
    columns = (token_ids, counts, chosen_logprobs, top.indices.tolist(), top.values.tolist())
    return [
        TokenPiece(token, logprob, tuple(zip(ids, values, strict=True))[:count])
        for token, count, logprob, ids, values in zip(*columns, strict=True)
    ]
