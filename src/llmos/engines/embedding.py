"""Final hidden states to one vector per row: pooled, shortened, at unit length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmos.errors import EngineError, InvalidRequestError
from llmos.types import PipelineOut

POOLINGS = ("mean", "cls", "last")
OPTIONS = frozenset({"pooling", "normalize", "dimensions"})


def check_options(options: Mapping[str, Any], width: int) -> None:
    """Refuse what the engine cannot do, before it disturbs other rows.

    Args:
        width: numbers in a hidden state.

    Raises:
        InvalidRequestError: an option is unknown or out of range (``param`` names it).
    """
    if unknown := sorted(set(options) - OPTIONS):
        known = ", ".join(sorted(OPTIONS))
        raise InvalidRequestError(
            f"There is no option {unknown[0]!r}; there are: {known}.", param=unknown[0]
        )
    if options.get("pooling", POOLINGS[0]) not in POOLINGS:
        raise InvalidRequestError(
            f"`pooling` is {options['pooling']!r}, but must be one of {', '.join(POOLINGS)}.",
            param="pooling",
        )
    if not isinstance(options.get("normalize", True), bool):
        raise InvalidRequestError("`normalize` must be true or false.", param="normalize")
    dimensions = options.get("dimensions", width)
    if type(dimensions) is not int or not 1 <= dimensions <= width:
        raise InvalidRequestError(
            f"`dimensions` is {dimensions!r}, but must be a number from 1 to {width}.",
            param="dimensions",
        )


def pooled(hidden: Tensor, lengths: Sequence[int], pooling: str) -> Tensor:
    """Return one float32 vector per row, ``[rows, width]``.

    Args:
        hidden: ``[rows, longest, width]``, padded at the end.
        lengths: tokens of each row; what comes after them does not count.
    """
    if pooling == "cls":
        return hidden[:, 0].float()
    counts = torch.tensor(lengths, device=hidden.device)
    if pooling == "last":
        return hidden[torch.arange(len(lengths), device=hidden.device), counts - 1].float()
    places = torch.arange(hidden.shape[1], device=hidden.device)
    inside = places[None, :, None] < counts[:, None, None]
    return hidden.float().where(inside, 0.0).sum(dim=1) / counts[:, None]


def vectors(
    hidden: Tensor, lengths: Sequence[int], options: Mapping[str, Any]
) -> list[PipelineOut | EngineError]:
    """Return each row's vector as little-endian float32 numbers; see ``pooled``."""
    rows = pooled(hidden, lengths, options.get("pooling", POOLINGS[0]))
    rows = rows[:, : options.get("dimensions", rows.shape[1])]
    if options.get("normalize", True):
        rows = torch.nn.functional.normalize(rows, dim=-1)
    is_finite = rows.isfinite().all(dim=-1).tolist()
    numbers = rows.cpu().contiguous().numpy().astype("<f4", copy=False)
    return [
        PipelineOut(vector=row.tobytes())
        if finite
        else EngineError("The model computed numbers that are not finite.")
        for row, finite in zip(numbers, is_finite, strict=True)
    ]
