"""How an operator asks models that the server serves: as HTTP would, without a network.

Its process sends each question to the job's own, which asks the server for whoever submitted the
job, and at the job's class.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from llmos.errors import JobFailedError, LlmosError, PipelineError, told_error

WINDOW = 64
"""Questions of one process under way: enough to fill a batch."""
MAX_TRIES = 60
"""Of one question at a server that says it is busy."""
READS = b"null"

Body = dict[str, Any] | None


class Ask(Protocol):
    """Asks the server's own ``path`` each body, and returns the answers in order; for None in place
    of a body the path is read.

    Raises LlmosError: what one was refused with.
    """

    def __call__(self, path: str, bodies: Sequence[Body]) -> list[dict[str, Any]]: ...


class Question(msgspec.Struct, frozen=True, tag="question"):
    """One body for a path of the server's, on its way from an operator's process."""

    id: int
    path: str
    body: msgspec.Raw
    """READS where there is none, and the path is read."""


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """What the server answered to a question; its body is JSON, or nothing."""

    id: int
    status: int
    body: str
    retry_after_s: float | None = None


def nobody(path: str, bodies: Sequence[Body]) -> list[dict[str, Any]]:
    """Refuse to ask, where there is no job. Raises PipelineError."""
    raise PipelineError("the operator asks a model, which only a job can: `llmos data run`")


class Asker:
    """An `Ask` over two pipes.

    Args:
        send: takes a question.
        receive: waits for the next reply.
        sleep: seconds, before asking again a server that is busy.
    """

    def __init__(
        self,
        send: Callable[[Question], None],
        receive: Callable[[], Reply],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._send = send
        self._receive = receive
        self._sleep = sleep
        self._last = 0

    def __call__(self, path: str, bodies: Sequence[Body]) -> list[dict[str, Any]]:
        """As `Ask`. All are answered, or given up, before one's error is raised."""
        first = self._last + 1
        self._last += len(bodies)
        questions = [
            Question(first + place, path, msgspec.Raw(msgspec.json.encode(body)))
            for place, body in enumerate(bodies)
        ]
        waiting, tries = deque(questions), dict.fromkeys(range(first, first + len(bodies)), 0)
        replies: dict[int, Reply] = {}
        open_count = 0
        while waiting or open_count:
            while waiting and open_count < WINDOW:
                question = waiting.popleft()
                tries[question.id] += 1
                self._send(question)
                open_count += 1
            reply = self._receive()
            open_count -= 1
            if _is_busy(reply) and tries[reply.id] < MAX_TRIES:
                self._sleep(reply.retry_after_s or 0.0)
                waiting.append(questions[reply.id - first])
            else:
                replies[reply.id] = reply
        return [_read(path, replies[question.id]) for question in questions]


def _is_busy(reply: Reply) -> bool:
    return reply.status in (429, 503) and reply.retry_after_s is not None


def _read(path: str, reply: Reply) -> dict[str, Any]:
    if reply.status == 200:
        found: dict[str, Any] = msgspec.json.decode(reply.body)
        return found
    raise _error(path, reply)


def _error(path: str, reply: Reply) -> LlmosError:
    try:
        told = msgspec.json.decode(reply.body)["error"]
        return told_error(told["code"], told["message"])
    except (msgspec.DecodeError, LookupError, TypeError):
        return JobFailedError(f"{path} was answered {reply.status}: {reply.body[:500]}")
