"""Regression: one number for a whole text."""

from __future__ import annotations

from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import whole_text
from llmos.tasks.rows import Terms
from llmos.types import PipelineWork

RATE_TASKS = frozenset({"rate"})


async def rate(context: TaskContext, served: Served, text: str, terms: Terms) -> float:
    """Return the number that the model gives a text.

    Raises:
        InvalidRequestError: the text is empty.
        ContextLengthError: it is longer than the model reads.
    """
    piece = await whole_text(served, text)
    work = PipelineWork("rate", piece.encoded.ids, priority=terms.priority, tenant=terms.tenant)
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:
        out = await lease.run(work)
    return out.scores[0][0]
