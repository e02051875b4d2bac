"""Picks one token per row from its logits.

Order: penalties, temperature, top-k, top-p, min-p (as transformers does), then the row's own
uniform number through the inverse of the cumulative distribution in token order. No row's result
depends on the others. Log-probabilities are those of the model, before any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from llmos.engines.native.philox import uniform
from llmos.types import SamplingParams, TokenPiece

_FIRST_CANDIDATES = 256
"""Sorted first when only top-p is given; the whole vocabulary only where that is not enough."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """What sampling needs to know of a row: ``token_ids`` are the prompt, then the output."""

    params: SamplingParams
    choice: int
    token_ids: Sequence[int]
    num_prompt: int

    @property
    def position(self) -> int:
        return len(self.token_ids) - self.num_prompt


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SampledRow]) -> list[TokenPiece | None]:
    """Return the picked token of each row of ``logits`` ``[R, vocab]``; None if not finite."""
    logits = logits.float()
    is_finite = logits.amax(dim=-1).isfinite()
    scores = penalize(logits, rows)
    tokens = scores.argmax(dim=-1)
    warm = [i for i, row in enumerate(rows) if row.params.temperature > 0]
    if warm:
        index = torch.tensor(warm, device=logits.device)
        picked = _pick(scores[index].nan_to_num(), [rows[i] for i in warm])
        tokens = tokens.index_copy(0, index, picked)
    report = _logprobs(logits, tokens, rows)
    picks = torch.stack([tokens, is_finite.long()]).tolist()
    return [
        report.get(i, TokenPiece(token)) if ok else None
        for i, (token, ok) in enumerate(zip(*picks, strict=True))
    ]


def penalize(logits: Tensor, rows: Sequence[SampledRow]) -> Tensor:
    """Apply the repetition penalty (Keskar et al. 2019, section 4.1: prompt and output), then
    OpenAI's frequency and presence penalties (output only)."""
    changed: Tensor | None = None
    for i, row in enumerate(rows):
        p = row.params
        if p.repetition_penalty == 1 and p.presence_penalty == 0 and p.frequency_penalty == 0:
            continue
        changed = logits.clone() if changed is None else changed
        scores = changed[i]
        if p.repetition_penalty != 1:
            seen = _counts(row.token_ids, scores) > 0
            weakened = torch.where(
                scores > 0, scores / p.repetition_penalty, scores * p.repetition_penalty
            )
            scores = torch.where(seen, weakened, scores)
        counts = _counts(row.token_ids[row.num_prompt :], scores)
        scores = scores - p.frequency_penalty * counts - p.presence_penalty * (counts > 0)
        changed[i] = scores
    return logits if changed is None else changed


def _counts(token_ids: Sequence[int], scores: Tensor) -> Tensor:
    vocab = scores.shape[-1]
    counts = np.bincount(np.asarray(token_ids, dtype=np.int64), minlength=vocab)[:vocab]
    return torch.from_numpy(counts).to(scores)


def _pick(scores: Tensor, rows: Sequence[SampledRow]) -> Tensor:
    """Sample ``scores`` ``[R, vocab]``; returns token ids ``[R]``."""
    probs = filtered_probs(scores, [row.params for row in rows])
    cdf = probs.cumsum(dim=-1)
    numbers = [uniform(row.params.seed, row.choice, row.position) for row in rows]
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
            width = max(width, min(vocab, _FIRST_CANDIDATES))
        threshold, is_enough = _threshold(probs, width, column(top_k), column(top_p))
        if not is_enough:
            threshold, _ = _threshold(probs, vocab, column(top_k), column(top_p))
        least = torch.maximum(least, threshold)
    return probs.masked_fill(probs < least, 0)


def _threshold(probs: Tensor, width: int, top_k: Tensor, top_p: Tensor) -> tuple[Tensor, bool]:
    """Return the smallest probability kept per row ``[R, 1]``, looking at the ``width`` likeliest.

    Also whether that many were enough to know. Top-p keeps a token while the mass before it, of
    the mass that top-k kept, is under p (Holtzman et al. 2020, section 3.1).
    """
    vocab = probs.shape[-1]
    top = probs.topk(width, dim=-1).values
    in_k = torch.arange(width, device=probs.device) < top_k
    mass = torch.where(top_k < vocab, (top * in_k).sum(dim=-1, keepdim=True), 1.0)
    before = top.cumsum(dim=-1) - top
    is_kept = in_k & ((before < top_p * mass) | (top_p >= 1))
    is_kept[:, 0] = True
    threshold = top.masked_fill(~is_kept, torch.inf).amin(dim=-1, keepdim=True)
    is_free = (top_k >= vocab) & (top_p >= 1)
    is_open = is_kept[:, -1:] & ~is_free & (top_k > width)
    return threshold.masked_fill(is_free, 0), width == vocab or not bool(is_open.any())


def _logprobs(logits: Tensor, tokens: Tensor, rows: Sequence[SampledRow]) -> dict[int, TokenPiece]:
    """Return the pieces of the rows that asked for log-probabilities, by row number."""
    asked = [(i, row.params.logprobs) for i, row in enumerate(rows)]
    wanted = {i: count for i, count in asked if count is not None}
    if not wanted:
        return {}
    index = torch.tensor(list(wanted), device=logits.device)
    logprobs = torch.log_softmax(logits[index], dim=-1)
    chosen = tokens[index]
    chosen_logprobs = logprobs.gather(1, chosen[:, None])[:, 0].tolist()
    top = logprobs.topk(min(max(wanted.values()), logprobs.shape[-1]), dim=-1)
    columns = (chosen.tolist(), chosen_logprobs, top.indices.tolist(), top.values.tolist())
    return {
        i: TokenPiece(token, logprob, tuple(zip(ids, values, strict=True))[: wanted[i]])
        for i, token, logprob, ids, values in zip(wanted, *columns, strict=True)
    }
