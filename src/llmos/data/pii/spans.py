"""A piece of personal data in a text, and which of several that overlap counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llmos.types import PERSONAL_TYPES, PersonalType

_JOINED = frozenset({"NAME", "ADDRESS", "SECRET"})
"""What no form bounds, so that two finds may each have a part."""
_FORMED = frozenset({"EMAIL", "PHONE", "ID_CARD_CN", "US_SSN", "BANK_CARD", "IBAN"})
"""What is known by its form: what is less certain gives way to it."""


_LEAST_CHARS = 6
"""Of an address that is cut short."""


@dataclass(frozen=True, slots=True)
class Span:
    """``text[start:end]`` is of a type; ``score`` in (0, 1] says how certain that is."""

    start: int
    end: int
    type: PersonalType
    score: float


def resolved(spans: Iterable[Span]) -> list[Span]:
    """Return spans that do not overlap, in order: names, addresses and secrets that overlap one of
    their own type are one; of others that do, the longest, then the most certain, then the first
    stays."""
    joined = _joined(spans)
    formed = [it for it in joined if it.type in _FORMED and it.score >= 0.7]
    ranked = sorted(
        (cut for span in joined for cut in _beside(span, formed)),
        key=lambda it: (it.start - it.end, -it.score, it.start, PERSONAL_TYPES.index(it.type)),
    )
    kept: list[Span] = []
    for span in ranked:
        if span.start < span.end and all(
            span.end <= other.start or other.end <= span.start for other in kept
        ):
            kept.append(span)
    return sorted(kept, key=lambda it: it.start)


def _beside(span: Span, formed: Sequence[Span]) -> Iterator[Span]:
    """Yield what of a span has no number of a known form in it: names and secrets that are less
    certain give way wholly, addresses end before it."""
    others = [it for it in formed if it.start < span.end and span.start < it.end]
    if span.type not in _JOINED or not others:
        yield span
    elif span.type == "ADDRESS":
        end = min(it.start for it in others)
        if end - span.start >= _LEAST_CHARS:
            yield Span(span.start, end, span.type, span.score)
    elif span.score >= 0.7:
        yield span


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Return spans of which those of a type of `_JOINED` that overlap are one."""
    done: list[Span] = []
    for span in sorted(spans, key=lambda it: (it.type, it.start, it.end)):
        last = done[-1] if done else None
        if (
            last is not None
            and last.type == span.type
            and span.type in _JOINED
            and span.start < last.end
        ):
            end, score = max(last.end, span.end), max(last.score, span.score)
            done[-1] = Span(last.start, end, span.type, score)
        else:
            done.append(span)
    return done
