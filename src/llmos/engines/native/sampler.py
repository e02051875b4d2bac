"""Picks one token per row from its logits.

Order: logit bias, repetition penalty, repeated n-grams, presence and frequency penalties, the
grammar; then temperature, top-k, top-p, min-p (as transformers does), then the row's own uniform
number through the inverse of the cumulative distribution in token order. No row's result depends
on the others. Log-probabilities are those of the model, before any of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmos.engines.native import device_distribution, distribution
from llmos.engines.native.philox import uniform
from llmos.types import SamplingParams, TokenPiece

if TYPE_CHECKING:
    from llmos.engines.native.grammar import GrammarState

_ROWS_AT_ONCE = 32
"""Of prompt log-probabilities on a device: what is computed of them takes no more memory."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """What sampling needs to know of a row: ``token_ids`` are the prompt, then the output."""

    params: SamplingParams
    choice: int
    token_ids: Sequence[int]
    num_prompt: int
    grammar: GrammarState | None = None

    @property
    def position(self) -> int:
        return len(self.token_ids) - self.num_prompt

    @property
    def number(self) -> float:
        """The uniform number that picks this token, whatever the batch."""
        return uniform(self.params.seed, self.choice, self.position)

    @property
    def is_altered(self) -> bool:
        """Whether anything changes the logits before temperature."""
        p = self.params
        return (
            self.grammar is not None
            or p.repetition_penalty != 1
            or p.presence_penalty != 0
            or p.frequency_penalty != 0
            or p.no_repeat_ngram_size > 0
            or bool(p.logit_bias)
        )


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SampledRow]) -> list[TokenPiece | None]:
    """Return the picked token of each row of ``logits`` ``[R, vocab]``.

    None where the logits are not finite, or where the row's grammar has ended or failed (then it
    says so).
    """
    tokens = _sample_on_cpu(logits, rows) if logits.is_cpu else _sample_on_device(logits, rows)
    asked = [
        (i, token, count)
        for i, (token, row) in enumerate(zip(tokens, rows, strict=True))
        if token is not None and (count := row.params.logprobs) is not None
    ]
    found: dict[int, TokenPiece] = {}
    if asked:
        index, chosen, counts = zip(*asked, strict=True)
        of_rows = logits if len(index) == len(rows) else logits[list(index)]
        found = dict(zip(index, _pieces(of_rows, chosen, counts), strict=True))
    return [
        None if token is None else found.get(i, TokenPiece(token)) for i, token in enumerate(tokens)
    ]


@torch.inference_mode()
def prompt_logprobs(logits: Tensor, next_ids: Sequence[int], count: int) -> tuple[TokenPiece, ...]:
    """Return the tokens that followed in a prompt, each with its log-probability.

    Args:
        logits: ``[N, vocab]``, those computed after each prompt token but the last.
        next_ids: the N tokens that came next.
        count: how many of the likeliest tokens to report beside each.
    """
    step = len(next_ids) if logits.is_cpu else _ROWS_AT_ONCE
    return tuple(
        piece
        for start in range(0, len(next_ids), max(1, step))
        for ids in [next_ids[start : start + step]]
        for piece in _pieces(logits[start : start + step], ids, [count] * len(ids))
    )


def penalize(scores: Tensor, row: SampledRow) -> None:
    """Change ``scores`` ``[vocab]`` in place, all but the grammar.

    Sources: repetition penalty over prompt and output, Keskar et al. 2019, section 4.1; presence
    and frequency penalties over the output alone, OpenAI's API reference.
    """
    p = row.params
    if p.logit_bias:
        biased, added = zip(*p.logit_bias, strict=True)
        scores.index_add_(0, _index(biased, scores), scores.new_tensor(added))
    token_ids = np.asarray(row.token_ids, dtype=np.int64)
    if p.repetition_penalty != 1:
        seen = _index(np.unique(token_ids), scores)
        old = scores[seen]
        scores[seen] = torch.where(old > 0, old / p.repetition_penalty, old * p.repetition_penalty)
    if p.no_repeat_ngram_size > 0:
        scores[_index(_repeating(token_ids, p.no_repeat_ngram_size), scores)] = -torch.inf
    if (p.presence_penalty or p.frequency_penalty) and row.position:
        written, counts = np.unique(token_ids[row.num_prompt :], return_counts=True)
        amounts = p.frequency_penalty * counts + p.presence_penalty
        scores[_index(written, scores)] -= scores.new_tensor(amounts)


def _repeating(token_ids: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the tokens that would complete an n-gram of ``size`` that is already there."""
    num_ngrams = len(token_ids) - size + 1
    if num_ngrams <= 0:
        return token_ids[:0]
    starts = np.arange(num_ngrams)
    for offset, last in enumerate(token_ids[num_ngrams:]):
        starts = starts[token_ids[starts + offset] == last]
        if not starts.size:
            break
    return token_ids[starts + size - 1]


def _index(token_ids: Sequence[int] | NDArray[np.int64], scores: Tensor) -> Tensor:
    return torch.as_tensor(np.asarray(token_ids, dtype=np.int64), device=scores.device)


def _alter(scores: Tensor, logits: Tensor, row: SampledRow) -> None:
    """Make ``scores``, a copy of ``logits`` ``[vocab]``, what the row's settings make of them.

    Where penalties forbid all that the grammar allows, the grammar goes before them.
    """
    penalize(scores, row)
    if row.grammar is not None:
        row.grammar.mask(scores)
    can_forbid = row.grammar is not None or row.params.no_repeat_ngram_size > 0
    if can_forbid and not _is_possible(scores):
        scores.copy_(logits)
        if row.grammar is not None:
            row.grammar.mask(scores)


def _is_possible(scores: Tensor) -> bool:
    if scores.is_cpu:  # numpy's maximum of one row takes a fraction of torch's
        return bool(scores.numpy().max() > -np.inf)
    return bool(scores.amax() > -torch.inf)


def _sample_on_cpu(logits: Tensor, rows: Sequence[SampledRow]) -> list[int | None]:
    table = logits.float().numpy()
    return [_sample_row(scores, row) for scores, row in zip(table, rows, strict=True)]


def _sample_row(logits: distribution.Scores, row: SampledRow) -> int | None:
    scores = logits
    if row.is_altered:
        if not np.isfinite(logits.max()):
            return None
        scores = logits.copy()
        _alter(torch.from_numpy(scores), torch.from_numpy(logits), row)
    likeliest = int(scores.argmax())  # the first NaN, where there is one
    if not np.isfinite(scores[likeliest]):
        return None
    if row.params.temperature < distribution.MIN_TEMPERATURE or row.params.top_k == 1:
        return likeliest
    return distribution.pick(scores, row.params, row.number)


def _sample_on_device(logits: Tensor, rows: Sequence[SampledRow]) -> list[int | None]:
    logits = logits.float()
    is_finite = logits.amax(dim=-1).isfinite()
    scores = logits.clone() if any(row.is_altered for row in rows) else logits
    for i, row in enumerate(rows):
        if row.is_altered:
            _alter(scores[i], logits[i], row)
    best, tokens = scores.max(dim=-1)
    is_finite &= best.isfinite()
    coldest = distribution.MIN_TEMPERATURE
    warm = [i for i, row in enumerate(rows) if row.params.temperature >= coldest]
    if warm:
        index = torch.tensor(warm, device=logits.device)
        params, numbers = [rows[i].params for i in warm], [rows[i].number for i in warm]
        picked = device_distribution.pick(scores[index].nan_to_num(), params, numbers)
        tokens = tokens.index_copy(0, index, picked)
    picks = torch.stack([tokens, is_finite.long()]).tolist()
    return [token if ok else None for token, ok in zip(*picks, strict=True)]


def _pieces(logits: Tensor, token_ids: Sequence[int], counts: Sequence[int]) -> list[TokenPiece]:
    """Return each row's token with its log-probability and those of the ``counts`` likeliest."""
    if not logits.is_cpu:
        return device_distribution.pieces(logits, token_ids, counts)
    table = logits.float().numpy()
    return [_piece(*one) for one in zip(table, token_ids, counts, strict=True)]


def _piece(logits: distribution.Scores, token_id: int, count: int) -> TokenPiece:
    log_mass = distribution.log_mass(logits)
    top = distribution.largest(logits, count) if count else np.empty(0, dtype=np.int64)
    top = top[np.argsort(-logits[top], kind="stable")][:count]
    values = (logits[top].astype(np.float64) - log_mass).tolist()
    logprob = float(logits[token_id]) - log_mass
    return TokenPiece(token_id, logprob, tuple(zip(top.tolist(), values, strict=True)))
