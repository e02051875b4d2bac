"""Classification: one label for a whole text."""

from __future__ import annotations

from dataclasses import dataclass

from llmos.errors import InvalidModelError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.pipeline import whole_text
from llmos.tasks.rows import Terms
from llmos.types import PipelineWork

CLASSIFY_TASKS = frozenset({"classify"})


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest label, its probability, and every label's, the likeliest first."""

    label: str
    score: float
    scores: dict[str, float]


async def classify(context: TaskContext, served: Served, text: str, terms: Terms) -> Classification:
    """Label a text.

    Raises:
        InvalidRequestError: the text is empty.
        ContextLengthError: it is longer than the model reads.
    """
    piece = await whole_text(served, text)
    ids = piece.encoded.ids
    work = PipelineWork("classify", ids, priority=terms.priority, tenant=terms.tenant)
    async with context.residency.lease(
        served.spec, terms.priority, terms.deadline_s, tenant=terms.tenant
    ) as lease:
        out = await lease.run(work)
    labels = labels_of(served)
    ranked = sorted(zip(labels, out.scores[0], strict=True), key=lambda pair: -pair[1])
    label, score = ranked[0]
    return Classification(label, score, dict(ranked))


def labels_of(served: Served) -> list[str]:
    """The names of a classifier's outputs. Raises InvalidModelError where it has none."""
    if not served.manifest.labels:
        raise InvalidModelError(f"{served.ref} does not name its labels.", param="model")
    return served.manifest.labels
