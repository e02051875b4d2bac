"""Many questions to the server from inside a job: side by side, answers in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from llmos.errors import JobFailedError
from llmos.kernel.protocol import Answer

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

WINDOW = 64
"""Questions under way: enough to fill a batch."""
LOOK_S = 0.5
"""Longest wait without a look whether the job is to end or to give way."""
MAX_TRIES = 60
"""Of one question at a server that says it is busy."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question: a path of the server's, and the JSON body; without one it is read."""

    path: str
    body: dict[str, Any] | None = None


def ask_all(
    context: JobContext,
    asks: Sequence[Ask],
    doing: str | None = "asking",
    bears: frozenset[int] = frozenset(),
) -> Iterator[dict[str, Any]]:
    """Yield the JSON answer of each question, in order, saying how far it is.

    Args:
        doing: what is said that this is; None: nothing is said.
        bears: statuses of refusals that are answers, too: ``{"error": {"message", …}}``.

    Raises:
        JobFailedError: one was refused, or the server stayed too busy for it.
        CancelledError: the job was cancelled.
    """
    unasked = enumerate(asks)
    under_way: deque[tuple[int, Future[Answer]]] = deque()
    for done in range(len(asks)):
        while len(under_way) < WINDOW and (following := next(unasked, None)):
            index, ask = following
            under_way.append((index, _send(context, ask)))
        index, future = under_way.popleft()
        yield _answer(context, asks[index], index, future, bears)
        if doing is not None:
            context.progress(done + 1, len(asks), doing)


def read(context: JobContext, path: str) -> dict[str, Any]:
    """Return the JSON at a path of the server's. Raises as `ask_all`."""
    (found,) = ask_all(context, [Ask(path)], "reading about the model")
    return found


def ask(context: JobContext, one: Ask) -> dict[str, Any]:
    """Return the JSON answer to one question, saying nothing of how far it is. Raises as
    `ask_all`."""
    return _answer(context, one, 0, _send(context, one))


def _send(context: JobContext, ask: Ask) -> Future[Answer]:
    body = None if ask.body is None else msgspec.json.encode(ask.body)
    return context.ask(ask.path, body)


def _answer(
    context: JobContext,
    ask: Ask,
    index: int,
    future: Future[Answer],
    bears: frozenset[int] = frozenset(),
) -> dict[str, Any]:
    for _ in range(MAX_TRIES):
        answer = _wait(context, future)
        if answer.status == 200 or answer.status in bears:
            found: dict[str, Any] = msgspec.json.decode(answer.body)
            return found
        if answer.status not in (429, 503) or answer.retry_after_s is None:
            break
        _pause(context, answer.retry_after_s)
        future = _send(context, ask)
    raise JobFailedError(
        f"question {index + 1} to {ask.path} was answered {answer.status}: {_told(answer.body)}"
    )


def _told(body: bytes) -> str:
    """Return what an error's body says to people."""
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return body.decode("utf-8", "replace")[:500]


def _wait(context: JobContext, future: Future[Answer]) -> Answer:
    while True:
        context.wait_while_paused()
        context.raise_if_cancelled()
        try:
            return future.result(LOOK_S)
        except TimeoutError:
            continue


def _pause(context: JobContext, seconds: float) -> None:
    """Wait before asking again, with a look at the job now and then."""
    never = threading.Event()
    while seconds > 0:
        context.raise_if_cancelled()
        never.wait(min(seconds, LOOK_S))
        seconds -= LOOK_S
