"""Masked words: the likeliest tokens at each mask of a text."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.errors import InvalidModelError, InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import whole_text
from llmos.tasks.rows import Terms
from llmos.types import PipelineWork

FILL_MASK_TASKS = frozenset({"fill_mask"})
ANY_MASK = "[MASK]"
"""What marks a mask for any model, whatever its own token for it is."""
MAX_MASKS = 32
MAX_FILLED_CHARS = 2**22
"""Of all the texts of an answer: each token for a mask comes with the whole text around it."""


@dataclass(frozen=True, slots=True)
class Fill:
    """A token for a mask, its probability there, and the text with it in the mask's place."""

    token: str
    score: float
    text: str


async def fill_mask(
    context: TaskContext, served: Served, text: str, top_k: int, terms: Terms
) -> list[list[Fill]]:
    """Return the likeliest ``top_k`` tokens of each mask, in order; each mask for itself.

    Raises:
        InvalidRequestError: the text is empty, has no mask or too many, or is too long to be
            repeated with every token.
        ContextLengthError: it is longer than the model reads.
    """
    mask = _mask_of(served)
    text = text.replace(ANY_MASK, mask)
    encoded = (await whole_text(served, text)).encoded
    mask_id = served.tokenizer.token_id(mask)
    places = [place for place, token in enumerate(encoded.ids) if token == mask_id]
    if mask_id is None or not places:
        raise InvalidRequestError(f"The text has no {ANY_MASK} to fill: put one in.", param="text")
    top_k = min(top_k, served.tokenizer.vocab_size)
    _check_size(len(places), top_k, len(text))
    options = {"mask_id": mask_id, "top_k": top_k}
    work = PipelineWork(
        "fill_mask", encoded.ids, options, priority=terms.priority, tenant=terms.tenant
    )
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:
        out = await lease.run(work)
    ids = iter(out.token_ids)
    filled = []
    for place, scores in zip(places, out.scores, strict=True):
        start, end = encoded.offsets[place]
        before, after = text[:start], text[end:]
        filled.append([_fill(served, next(ids), score, before, after) for score in scores])
    return filled


def _check_size(num_masks: int, top_k: int, num_chars: int) -> None:
    """Refuse an answer that would be far larger than what was asked."""
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


def _fill(served: Served, token_id: int, score: float, before: str, after: str) -> Fill:
    piece = served.tokenizer.text_bytes(token_id, None).decode("utf-8", "replace")
    if not before or before[-1].isspace():
        piece = piece.lstrip()
    return Fill(piece.strip(), score, f"{before}{piece}{after}")


def _mask_of(served: Served) -> str:
    mask = served.manifest.special_tokens.get("mask")
    if mask is None:
        raise InvalidModelError(f"{served.ref} does not name its mask token.", param="model")
    return mask
