"""Texts longer than a model reads at once: sentences or clauses run side by side, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from llmos.data.sentences import Span, clauses, sentences
from llmos.errors import ContextLengthError, InvalidRequestError
from llmos.tasks.context import Served
from llmos.tasks.tokenizers import Encoded

MAX_PARALLEL = 16
"""Pieces of one request in the engine at a time; the others wait here."""

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text that fits the model: ``text[start:end]`` and its tokens."""

    start: int
    end: int
    encoded: Encoded


async def pieces_of(served: Served, text: str, prefix: str = "") -> list[Piece]:
    """Return the text's sentences, those too long for the model cut into clauses.

    ``prefix`` is put before each piece's text, as its tokens show.

    Raises:
        InvalidRequestError: the text is empty.
        ContextLengthError: a clause alone is longer than the model reads.
    """
    check_text(text)
    pieces: list[Piece] = []
    for start, end in sentences(text):
        encoded = await served.tokenizer.encode(prefix + text[start:end])
        if len(encoded.ids) <= served.context_tokens:
            pieces.append(Piece(start, end, encoded))
            continue
        for inner in clauses(text[start:end]):
            span = (start + inner[0], start + inner[1])
            pieces.append(await _whole(served, text, span, prefix))
    return pieces


async def whole_text(served: Served, text: str) -> Piece:
    """Return the whole text as one piece. Raises as ``pieces_of`` does."""
    check_text(text)
    return await _whole(served, text, (0, len(text)), "")


async def run_all(
    items: Sequence[T], run: Callable[[T], Awaitable[U]], max_parallel: int = MAX_PARALLEL
) -> list[U]:
    """Return ``run`` of every item, in order, several at a time; an error cancels the others."""
    slots = asyncio.Semaphore(max_parallel)

    async def limited(item: T) -> U:
        async with slots:
            return await run(item)

    tasks = [asyncio.ensure_future(limited(item)) for item in items]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def check_text(text: str) -> None:
    """Raise InvalidRequestError when there is no text."""
    if not text.strip():
        raise InvalidRequestError("text is empty: give some.", param="text")


async def _whole(served: Served, text: str, span: Span, prefix: str) -> Piece:
    encoded = await served.tokenizer.encode(prefix + text[slice(*span)])
    if len(encoded.ids) > served.context_tokens:
        raise ContextLengthError(
            f"A text of {len(encoded.ids)} tokens does not fit {served.ref}, which reads "
            f"{served.context_tokens} at once: shorten it, or break it into sentences.",
            param="text",
        )
    return Piece(*span, encoded)
