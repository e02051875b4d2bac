"""Span question answering: the part of a context that answers a question, or that none does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.rows import Terms, run_rows
from llmos.tasks.windows import Window
from llmos.types import PipelineWork

ANSWER_TASKS = frozenset({"answer"})
MAX_WINDOWS = 512
MAX_ANSWER_TOKENS = 64


@dataclass(frozen=True, slots=True)
class Answer:
    """``context[start:end]`` in characters, and its probability; empty where there is none, and
    then the probability of that."""

    text: str
    start: int
    end: int
    score: float


class Span(NamedTuple):
    """Tokens ``first`` to ``last`` of a window, and their probability."""

    first: int
    last: int
    score: float


async def answer(
    context: TaskContext, served: Served, question: str, text: str, terms: Terms
) -> Answer:
    """Find the answer to a question in a text of any length, read in windows that overlap.

    Raises:
        InvalidRequestError: the question or the text is empty.
        ContextLengthError: the question leaves no room for a text, or the text is too long.
    """
    for given, name in ((question, "question"), (text, "context")):
        if not given.strip():
            raise InvalidRequestError(f"{name} is empty: give some.", param=name)
    windows = await served.tokenizer.windows(question, text, served.context_tokens, MAX_WINDOWS)
    if not windows:
        raise ContextLengthError(
            f"The question leaves no room for a context: {served.ref} reads "
            f"{served.context_tokens} tokens at once. Shorten it.",
            param="question",
        )
    if len(windows) == MAX_WINDOWS:
        raise ContextLengthError(
            f"The context takes {MAX_WINDOWS} windows of {served.context_tokens} tokens or more: "
            "ask about a part of it.",
            param="context",
        )
    works = [PipelineWork("answer", window.ids, type_ids=window.type_ids) for window in windows]
    outs = await run_rows(context, served, works, terms)
    found = [
        (best_span(out.scores[0], out.scores[1], window.parts), window)
        for out, window in zip(outs, windows, strict=True)
    ]
    return best_answer(found, text)


def best_answer(found: Sequence[tuple[tuple[Span, float], Window]], text: str) -> Answer:
    """Return the likeliest span of all windows, unless each holds that there is likelier none."""
    (span, _), window = max(found, key=lambda one: one[0][0].score)
    nothing = min(null for (_, null), _ in found)
    if nothing >= span.score:
        return Answer("", 0, 0, nothing)
    start, end = window.offsets[span.first][0], window.offsets[span.last][1]
    while start < end and text[start].isspace():
        start += 1
    return Answer(text[start:end], start, end, span.score)


def best_span(
    starts: Sequence[float],
    ends: Sequence[float],
    parts: Sequence[int | None],
    max_tokens: int = MAX_ANSWER_TOKENS,
) -> tuple[Span, float]:
    """Return the likeliest span of context tokens, and the probability that none answers.

    The probability of a span is that of its start times that of its end, each among the context's
    tokens and the first token, which stands for no answer (Devlin et al., 2018, section 4.3).

    Args:
        starts: logits of an answer's start at each token.
        ends: those of its end.
        parts: 1 for tokens of the context.
        max_tokens: longest answer.
    """
    places = [0, *(place for place, part in enumerate(parts) if part == 1)]
    begin, finish = (_softmax([logits[place] for place in places]) for logits in (starts, ends))
    best = Span(0, 0, -1.0)
    for first in range(1, len(places)):
        for last in range(first, min(first + max_tokens, len(places))):
            score = begin[first] * finish[last]
            if score > best.score:
                best = Span(places[first], places[last], score)
    return best, begin[0] * finish[0]


def _softmax(logits: Sequence[float]) -> list[float]:
    highest = max(logits)
    powers = [math.exp(logit - highest) for logit in logits]
    total = sum(powers)
    return [power / total for power in powers]
