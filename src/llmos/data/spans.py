"""Entity spans as BIO tags on tokens. Offsets are characters, ends exclusive.

Reading tags back into spans is `llmos.tasks.entities`: what is measured is what is served.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmos.data.record import Entity

Offsets = Sequence[tuple[int, int]]
OUTSIDE = "O"


def bio_labels(entity_labels: Sequence[str]) -> list[str]:
    """The tag set of these entity labels: O first, then B- and I- of each."""
    return [OUTSIDE, *(f"{prefix}-{name}" for name in entity_labels for prefix in "BI")]


def tags_of(entities: Sequence[Entity], offsets: Offsets) -> list[str]:
    """One tag per token; a token belongs to the entity its characters overlap."""
    tags = [OUTSIDE] * len(offsets)
    for entity in entities:
        inside = False
        for index, (start, end) in enumerate(offsets):
            if start < end and start < entity.end and end > entity.start:
                tags[index] = f"{'I' if inside else 'B'}-{entity.label}"
                inside = True
    return tags
