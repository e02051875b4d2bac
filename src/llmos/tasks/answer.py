"""Span question answering: the part of a context that answers a question, or that none does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.context import Served, TaskContext
from llmos.tasks.rows import Terms, run_rows
from llmos.tasks.windows import Window
from llmos.types import PipelineOut, PipelineWork

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    windows = await _windows(served, question, text)
    works = [PipelineWork("answer", window.ids, type_ids=window.type_ids) for window in windows]
    outs = await run_rows(context, served, works, terms)
    return await asyncio.to_thread(_read, outs, windows, text)


async def _windows(served: Served, question: str, text: str) -> list[Window]:
    """Return the windows of a text; one that is far too long is not tokenised whole."""
    limit = served.context_tokens
    if await served.tokenizer.least_tokens(question, limit) > limit:
        raise _no_room(served)
    if await served.tokenizer.least_tokens(text, MAX_WINDOWS * limit) > MAX_WINDOWS * limit:
        raise _too_long(served)
    windows = await served.tokenizer.windows(question, text, limit, MAX_WINDOWS)
    if windows is None:
        raise _too_long(served)
    if not windows:
        raise _no_room(served)
    return windows


def _no_room(served: Served) -> ContextLengthError:
    return ContextLengthError(
        f"The question leaves no room for a context: {served.ref} reads "
        f"{served.context_tokens} tokens at once. Shorten it.",
        param="question",
    )


def _too_long(served: Served) -> ContextLengthError:
    return ContextLengthError(
        f"The context takes more than {MAX_WINDOWS} windows of {served.context_tokens} tokens: "
        "ask about a part of it.",
        param="context",
    )


def _read(outs: Sequence[PipelineOut], windows: Sequence[Window], text: str) -> Answer:
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
    import numpy as np

    places = [0, *(place for place, part in enumerate(parts) if part == 1)]
    begin, finish = (_softmax(np.asarray(logits)[places]) for logits in (starts, ends))
    nothing = float(begin[0] * finish[0])
    if len(places) == 1:
        return Span(0, 0, -1.0), nothing
    padded = np.concatenate([finish[1:], np.zeros(max_tokens - 1)])
    reach = np.lib.stride_tricks.sliding_window_view(padded, max_tokens)
    scores = begin[1:] * reach.max(axis=1)  # of the best span that begins at each place
    first = int(scores.argmax())
    last = first + int(reach[first].argmax())
    return Span(places[1 + first], places[1 + last], float(scores[first])), nothing


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    powers: NDArray[np.float64] = np.exp(logits - logits.max())
    powers /= powers.sum()
    return powers
