"""What the heads of networks that read a text in one go give: probabilities, spans, tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmos.engines import embedding
from llmos.errors import EngineError, InvalidRequestError
from llmos.types import PipelineOut, PipelineWork

Result = PipelineOut | EngineError
MAX_FILLS = 100
"""Tokens told of each mask, at most."""


def check_options(kind: str, options: Mapping[str, Any], vocab_size: int) -> None:
    """Refuse options that the kind of work does not take.

    Raises:
        InvalidRequestError: an option is unknown or out of range (``param`` names it).
    """
    known = {"mask_id", "top_k"} if kind == "fill_mask" else set()
    if unknown := sorted(set(options) - known):
        raise InvalidRequestError(f"{kind} takes no options, but has {', '.join(unknown)}.")
    if kind != "fill_mask":
        return
    for name, highest in (("mask_id", vocab_size - 1), ("top_k", MAX_FILLS)):
        value = options.get(name)
        if type(value) is not int or not (name == "top_k") <= value <= highest:
            raise InvalidRequestError(
                f"`{name}` is {value!r}, but must be a number up to {highest}.", param=name
            )


def results(kind: str, out: Any, works: Sequence[PipelineWork], config: Any) -> list[Result]:
    """Return what each work of a batch gets.

    Args:
        out: what the network gave for them.
        config: the network's.
    """
    lengths = [len(work.input_ids) for work in works]
    if kind == "embed":
        return embedding.vectors(out.last_hidden_state, lengths, works[0].options)
    if kind == "answer":
        starts, ends = out.start_logits.float().tolist(), out.end_logits.float().tolist()
        spans = zip(starts, ends, lengths, strict=True)
        return [_scored([start[:length], end[:length]]) for start, end, length in spans]
    if kind == "parse":
        return _trees(out)
    logits = out.logits.float()
    if kind == "fill_mask":
        return [_fills(row, work) for row, work in zip(logits, works, strict=True)]
    if kind == "rate":
        return [_scored([row]) for row in logits.tolist()]
    if kind == "token_classify":
        rows = logits.softmax(dim=-1).tolist()
        return [_scored(row[:length]) for row, length in zip(rows, lengths, strict=True)]
    is_multi = config.problem_type == "multi_label_classification" or logits.shape[-1] == 1
    scores = logits.sigmoid() if is_multi else logits.softmax(dim=-1)
    return [_scored([row]) for row in scores.tolist()]


def _trees(out: Any) -> list[Result]:
    """Return the heads of each work's words, the numbers of their relations, and of their parts of
    speech; and how likely the heads and relations are."""
    relations = out.relations.float().log_softmax(dim=-1).max(dim=-1)
    heads = out.arcs.float().gather(2, out.heads[..., None])[..., 0]
    scores = (heads + relations.values).exp().tolist()
    told = torch.stack([out.heads, relations.indices, out.tags.argmax(dim=-1)], dim=1).tolist()
    return [
        _scored([row[:count]], [number for numbers in of_row for number in numbers[:count]])
        for row, of_row, count in zip(scores, told, out.lengths.tolist(), strict=True)
    ]


def _fills(logits: Tensor, work: PipelineWork) -> Result:
    """Return the likeliest tokens of each mask, and their probabilities.

    Args:
        logits: of the work's row, ``[longest, vocabulary]``.
    """
    ids = torch.tensor(work.input_ids, device=logits.device)
    places = (ids == work.options["mask_id"]).nonzero().flatten()
    count = min(work.options["top_k"], logits.shape[-1])
    best = logits[places].softmax(dim=-1).topk(count)
    return _scored(best.values.tolist(), best.indices.flatten().tolist())


def _scored(rows: Sequence[Sequence[float]], token_ids: Sequence[int] = ()) -> Result:
    if not all(math.isfinite(score) for row in rows for score in row):
        return EngineError("The model computed numbers that are not finite.")
    return PipelineOut(tuple(token_ids), tuple(tuple(row) for row in rows))
