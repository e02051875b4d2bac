"""What is told of the masks of a text, and how much of it in one answer."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.errors import InvalidRequestError

ANY_MASK = "[MASK]"
"""What marks a mask for any model, whatever its own token for it is."""
MAX_MASKS = 32
MAX_FILLED_CHARS = 2**22
"""Of all the texts of an answer: each token for a mask comes with the whole text around it."""


@dataclass(frozen=True, slots=True)
class Fill:
    """What stands for a mask, its probability there, and the text with it in the mask's place."""

    token: str
    score: float
    text: str


def no_mask() -> InvalidRequestError:
    """Return the error of a text without masks."""
    return InvalidRequestError(f"The text has no {ANY_MASK} to fill: put one in.", param="text")


def check_size(num_masks: int, top_k: int, num_chars: int) -> None:
    """Refuse an answer that would be far larger than what was asked.

    Raises:
        InvalidRequestError: there are too many masks, or the text is repeated too often.
    """
    if num_masks > MAX_MASKS:
        raise InvalidRequestError(
            f"The text has {num_masks} masks, but one request may have {MAX_MASKS}: send parts.",
            param="text",
        )
    if num_masks * top_k * num_chars > MAX_FILLED_CHARS:
        raise InvalidRequestError(
            f"{num_masks} masks with {top_k} tokens each repeat a text of {num_chars} characters "
            f"too often: an answer may have {MAX_FILLED_CHARS} characters. Shorten the text, or "
            "ask for less with top_k.",
            param="text",
        )


def fitted(piece: str, before: str) -> str:
    """Return what stands for a mask as it goes on from the text before it: without a space of its
    own where there is one."""
    return piece.lstrip() if not before or before[-1].isspace() else piece
