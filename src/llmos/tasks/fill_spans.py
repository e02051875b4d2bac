"""Spans that are gone from a text, told by a network that learned by span corruption (T5)."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence

from llmos.errors import InvalidRequestError
from llmos.models.sentinels import SENTINEL, sentinel, spans_in
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.masks import ANY_MASK, Fill, check_size, fitted, no_mask
from llmos.tasks.pipeline import whole_text
from llmos.tasks.rows import Terms
from llmos.types import PipelineOut, PipelineWork

SPAN_TOKENS = 32
"""Written for each mask at most, in the mean of a text."""
_MASKS = re.compile(f"{re.escape(ANY_MASK)}|{SENTINEL.pattern}")


async def fill_spans(
    context: TaskContext, served: Served, text: str, sentinels: Sequence[int], terms: Terms
) -> list[list[Fill]]:
    """Return what the model writes for each mask, in order: a span of any length, or nothing where
    it wrote none. They are written one after the other, each to fit those before it, so the texts
    have all of them in place.

    A mask is ``[MASK]`` or a sentinel, whichever: they are numbered as they come.

    Args:
        sentinels: the ids of the model's, in order.

    Raises:
        InvalidRequestError: the text is empty, or has no mask or too many.
        ContextLengthError: it is longer than the model reads.
    """
    numbers = itertools.count()
    text = _MASKS.sub(lambda _: sentinel(next(numbers)), text)
    count = next(numbers)
    check_size(count, 1, len(text))
    if count >= len(sentinels):
        raise InvalidRequestError(
            f"The text has {count} masks, but {served.ref} knows {len(sentinels) - 1} in a text: "
            "send parts.",
            param="text",
        )
    encoded = (await whole_text(served, text)).encoded
    if not count:
        raise no_mask()
    options = {"num_beams": 1, "logprobs": 1, "max_tokens": count * (1 + SPAN_TOKENS) + 2}
    work = PipelineWork("seq2seq", encoded.ids, options, terms.priority, tenant=terms.tenant)
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:
        out = await lease.run(work)
    told = [_told(served, out, span) for span in spans_in(out.token_ids, sentinels, count)]
    named = set(sentinels[:count])
    places = [place for place, token in enumerate(encoded.ids) if token in named]
    whole = _whole(text, [encoded.offsets[place] for place in places], told)
    return [[] if one is None else [Fill(one[0].strip(), one[1], whole)] for one in told]


def _told(served: Served, out: PipelineOut, span: slice | None) -> tuple[str, float] | None:
    """Return a span's text and its probability, that it ends there included."""
    if span is None:
        return None
    (scores,) = out.scores
    logprob = sum(scores[span.start : span.stop + 1])
    return served.tokenizer.decode(out.token_ids[span]), math.exp(logprob)


def _whole(
    text: str, masks: Sequence[tuple[int, int]], told: Sequence[tuple[str, float] | None]
) -> str:
    """Return the text with what was told in place of its masks."""
    whole, last = "", 0
    for (start, end), one in zip(masks, told, strict=True):
        whole += text[last:start]
        whole += SENTINEL.sub(ANY_MASK, text[start:end]) if one is None else fitted(one[0], whole)
        last = end
    return whole + text[last:]
