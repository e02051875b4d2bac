"""transformers' own logits warpers: the oracle for what sampling may pick, and how often."""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation import logits_process as hf

Fields = dict[str, Any]


def logits_of(rows: int, vocab: int, scale: float = 3.0) -> torch.Tensor:
    """Random logits ``[rows, vocab]``, the same each time."""
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3)) * scale


def warped(scores: torch.Tensor, fields: Fields, token_ids: tuple[int, ...] = (0,)) -> torch.Tensor:
    """What transformers leaves of the distribution, as probabilities."""
    steps: list[Any] = []
    if bias := fields.get("logit_bias"):
        steps.append(hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias]))
    if penalty := fields.get("repetition_penalty"):
        steps.append(hf.RepetitionPenaltyLogitsProcessor(penalty))
    if size := fields.get("no_repeat_ngram_size"):
        steps.append(hf.NoRepeatNGramLogitsProcessor(size))
    steps.append(hf.TemperatureLogitsWarper(float(fields.get("temperature", 1.0))))
    if fields.get("top_k"):
        steps.append(hf.TopKLogitsWarper(fields["top_k"]))
    if fields.get("top_p", 1.0) < 1:
        steps.append(hf.TopPLogitsWarper(fields["top_p"]))
    if fields.get("min_p"):
        steps.append(hf.MinPLogitsWarper(fields["min_p"]))
    ids = torch.tensor([token_ids] * len(scores))
    for step in steps:
        scores = step(ids, scores)
    return scores.softmax(dim=-1)
