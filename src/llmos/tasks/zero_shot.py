"""Classification into labels that no model was trained on: by what one embeds, or finds likely."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from llmos.errors import InvalidRequestError
from llmos.tasks.classify import Classification
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.embed import EMBED_TASKS, EmbedOptions, embed
from llmos.tasks.generate import GENERATE_TASKS
from llmos.tasks.likelihood import gains
from llmos.tasks.rows import Terms

ZERO_SHOT_TASKS = EMBED_TASKS | GENERATE_TASKS
PLACE = "{}"
"""In a template, where a label goes."""
TEMPERATURE = 0.05
"""Of a model whose recipe says none."""


async def classify_by_labels(
    context: TaskContext,
    served: Served,
    text: str,
    labels: Sequence[str],
    template: str,
    terms: Terms,
) -> Classification:
    """Say which of some labels fits a text.

    Of a model that embeds it is the one whose description is the nearest. The scores are those by
    which such models learn which texts belong together: the softmax of the cosines, over the
    temperature of the model's training (InfoNCE, arXiv:1807.03748). Of a language model it is the
    one whose description the text makes so much likelier, and the scores are the probabilities of
    labels that are all as likely before (arXiv:2104.08315).

    Args:
        template: a description, with ``{}`` for the label.

    Raises:
        InvalidRequestError: the text or a label is empty, a label comes twice, or the template has
            no place, or several, for one.
        ContextLengthError: the text, or a description, is longer than the model reads.
    """
    _check(text, labels, template)
    described = [template.replace(PLACE, label) for label in labels]
    if served.manifest.task in EMBED_TASKS:
        logits = await _nearness(context, served, text, described, terms)
    else:
        logits = await gains(context, served, text, described, terms)
    ranked = sorted(zip(labels, _softmax(logits), strict=True), key=lambda pair: -pair[1])
    label, score = ranked[0]
    return Classification(label, score, dict(ranked))


def _check(text: str, labels: Sequence[str], template: str) -> None:
    if not text.strip():
        raise InvalidRequestError("text is empty: give some.", param="text")
    for place, label in enumerate(labels):
        if not label.strip() or label in labels[:place]:
            said = f"is {label[:100]!r} again" if label.strip() else "is empty"
            raise InvalidRequestError(f"labels.{place} {said}.", param=f"labels.{place}")
    if template.count(PLACE) != 1:
        raise InvalidRequestError(
            f"template must have one {PLACE}, where a label goes: 'This is about {PLACE}.'",
            param="template",
        )


async def _nearness(
    context: TaskContext, served: Served, text: str, described: Sequence[str], terms: Terms
) -> list[float]:
    """Return the cosine of a text with each description, over the model's temperature."""
    made = await embed(context, served, [text, *described], EmbedOptions(normalize=True), terms)
    own, *theirs = (array("f", vector) for vector in made.vectors)
    section = (served.manifest.recipe or {}).get("contrastive") or {}
    temperature = float(section.get("temperature") or TEMPERATURE)
    return [sum(a * b for a, b in zip(own, other, strict=True)) / temperature for other in theirs]


def _softmax(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    return [power / sum(powers) for power in powers]
