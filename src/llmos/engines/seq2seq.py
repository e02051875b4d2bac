"""Beam searches: what may be asked of one, where it stops for others, what of a row is the answer.

The search itself is transformers' ``generate``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria

from llmos.engines.slices import Breaks
from llmos.errors import InvalidRequestError

OPTION_RANGES = {
    "num_beams": (int, 1, 16),
    "no_repeat_ngram_size": (int, 0, 100),
    "length_penalty": (float, -10, 10),
    "max_tokens": (int, 1, 2**31),
    "forced_bos_token_id": (int, 0, 2**31),
    "logprobs": (int, 0, 1),
}
"""What a seq2seq work may set: type, least, most."""

KEPT_SETTINGS = (
    "decoder_start_token_id",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
    "early_stopping",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "repetition_penalty",
)
"""What counts of a model's own generation_config.json."""


class Pausing(StoppingCriteria):  # type: ignore[misc]
    """Lets others compute after each token."""

    def __init__(self, breaks: Breaks) -> None:
        self._breaks = breaks

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        self._breaks.stop()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def generation_defaults(theirs: GenerationConfig) -> GenerationConfig:
    """Keep what belongs to the model of its generation settings, and nothing that changes what a
    call returns or how long it may take."""
    kept = {name: getattr(theirs, name) for name in KEPT_SETTINGS}
    num_beams = min(theirs.num_beams or 1, OPTION_RANGES["num_beams"][2])
    return GenerationConfig(**kept, num_beams=num_beams)


def check_options(options: Mapping[str, Any], vocab_size: int) -> None:
    """Raise InvalidRequestError for options there are none of, or whose values make no sense."""
    for name, value in options.items():
        if name not in OPTION_RANGES:
            known = ", ".join(OPTION_RANGES)
            raise InvalidRequestError(
                f"There is no option {name!r}; there are: {known}.", param=name
            )
        of_type, least, most = OPTION_RANGES[name]
        if name == "forced_bos_token_id":
            most = vocab_size - 1
        is_number = isinstance(value, (int, of_type)) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise InvalidRequestError(
                f"`{name}` is {value!r}, but must be a number from {least} to {most}.", param=name
            )
    if options.get("logprobs") and options.get("num_beams") != 1:
        raise InvalidRequestError("logprobs are those of num_beams 1.", param="logprobs")


def answer(row: Sequence[int], forced_bos: int | None, ends: set[int | None]) -> slice:
    """Return where in a decoder's row the answer is: without its start token, forced token, end
    and padding."""
    first = 2 if len(row) > 1 and row[1] == forced_bos else 1
    last = next((i for i in range(first, len(row)) if row[i] in ends), len(row))
    return slice(first, last)


def logprobs(row: Sequence[int], logits: Sequence[Tensor], where: slice) -> tuple[float, ...]:
    """Return the log-probabilities of an answer's tokens, and of the end behind it if it is there.

    Args:
        logits: of each token of the row but its first, ``[vocab]``.
    """
    last = min(where.stop + 1, len(row))
    chosen = range(where.start, last)
    return tuple(float(logits[i - 1].float().log_softmax(-1)[row[i]]) for i in chosen)


def as_list(ids: int | list[int] | None) -> list[int]:
    """Return the ids of a setting that may be one, several or none."""
    return ids if isinstance(ids, list) else [] if ids is None else [ids]
