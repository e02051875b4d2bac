"""Masked words: the likeliest tokens at each mask of a text."""

from __future__ import annotations

from llmos.errors import InvalidModelError
from llmos.models.sentinels import sentinel_ids
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.fill_spans import fill_spans
from llmos.tasks.masks import ANY_MASK, Fill, check_size, fitted, no_mask
from llmos.tasks.pipeline import whole_text
from llmos.tasks.rows import Terms
from llmos.types import PipelineWork

FILL_MASK_TASKS = frozenset({"fill_mask"})


async def fill_mask(
    context: TaskContext, served: Served, text: str, top_k: int, terms: Terms
) -> list[list[Fill]]:
    """Return the likeliest ``top_k`` tokens of each mask, in order; each mask for itself.

    A model that has sentinels and no mask tells one span for each, see ``fill_spans``.

    Raises:
        InvalidRequestError: the text is empty, has no mask or too many, or is too long to be
            repeated with every token.
        ContextLengthError: it is longer than the model reads.
    """
    mask = served.manifest.special_tokens.get("mask")
    if mask is None:
        sentinels = sentinel_ids(served.tokenizer.token_id)
        if not sentinels:
            raise InvalidModelError(
                f"{served.ref} names no mask token, and has no sentinels (<extra_id_0>, …).",
                param="model",
            )
        return await fill_spans(context, served, text, sentinels, terms)
    text = text.replace(ANY_MASK, mask)
    encoded = (await whole_text(served, text)).encoded
    mask_id = served.tokenizer.token_id(mask)
    places = [place for place, token in enumerate(encoded.ids) if token == mask_id]
    if mask_id is None or not places:
        raise no_mask()
    top_k = min(top_k, served.tokenizer.vocab_size)
    check_size(len(places), top_k, len(text))
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


def _fill(served: Served, token_id: int, score: float, before: str, after: str) -> Fill:
    decoded = served.tokenizer.text_bytes(token_id, None).decode("utf-8", "replace")
    piece = fitted(decoded, before)
    return Fill(piece.strip(), score, f"{before}{piece}{after}")
