"""A piece of personal data in a text, and which of several that overlap counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

PersonalType = Literal[
    "NAME",
    "EMAIL",
    "PHONE",
    "ID_CARD_CN",
    "US_SSN",
    "BANK_CARD",
    "IBAN",
    "PASSPORT",
    "OTHER_ID",
    "ADDRESS",
    "IP",
    "URL",
    "SECRET",
    "CRYPTO_WALLET",
    "DATE_OF_BIRTH",
]
TYPES: tuple[PersonalType, ...] = get_args(PersonalType)


@dataclass(frozen=True, slots=True)
class Span:
    """``text[start:end]`` is of a type; ``score`` in (0, 1] says how certain that is."""

    start: int
    end: int
    type: PersonalType
    score: float


def resolved(spans: Iterable[Span]) -> list[Span]:
    """Return spans that do not overlap, in order: of those that do, the longest, then the most
    certain, then the first stays."""
    ranked = sorted(
        spans,
        key=lambda it: (it.start - it.end, -it.score, it.start, TYPES.index(it.type)),
    )
    kept: list[Span] = []
    for span in ranked:
        if span.start < span.end and all(
            span.end <= other.start or other.end <= span.start for other in kept
        ):
            kept.append(span)
    return sorted(kept, key=lambda it: it.start)
