"""The server's side of what running jobs ask of it: each ask is answered in its own time.

What an ask means, the `Answerer` says: the kernel only carries it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from llmos.kernel.jobs import Job
from llmos.kernel.protocol import (
    Answer,
    FromWorker,
    JobAnswer,
    JobAsk,
    Said,
    ToWorker,
    UnsendableError,
)

MAX_OPEN = 1024
"""Asks of one job under way; those beyond are answered 429."""
NOT_OPEN_S = 0.5
"""After so many seconds a job may ask again where nobody answers yet."""

Answerer = Callable[[Job, JobAsk], Awaitable[Answer]]
"""Answers what a job asks, whatever that is: an error is an answer with its status."""

log = logging.getLogger(__name__)


async def not_open(job: Job, ask: JobAsk) -> Answer:
    """Answer before the server is open for asks: come back in a moment."""
    return Answer(503, b"", retry_after_s=NOT_OPEN_S)


class AskDesk:
    """The server's side of one worker. Belongs to one event loop.

    Args:
        send: passes a message to the worker.
        answerer: answers each ask, on a task of its own.
    """

    def __init__(self, job: Job, send: Callable[[ToWorker], None], answerer: Answerer) -> None:
        self._job = job
        self._send = send
        self._answerer = answerer
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, messages: Sequence[FromWorker]) -> list[Said]:
        """Begin to answer the asks among ``messages``; return the others."""
        others: list[Said] = []
        for message in messages:
            if not isinstance(message, JobAsk):
                others.append(message)
            elif len(self._tasks) >= MAX_OPEN:
                self._send(JobAnswer(message.id, Answer(429, b"", retry_after_s=1.0)))
            else:
                task = asyncio.create_task(self._answer(message))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return others

    def close(self) -> None:
        """Give up what is under way: nobody waits for it any more."""
        for task in self._tasks:
            task.cancel()

    async def _answer(self, ask: JobAsk) -> None:
        try:
            self._send(JobAnswer(ask.id, await self._answerer(self._job, ask)))
        except Exception as error:  # an ask's top: unanswered, it would hold its job up for ever
            if not isinstance(error, UnsendableError):
                log.exception("what job %d asked of %s failed", self._job.id, ask.path)
            self._send(JobAnswer(ask.id, Answer(500, b"")))
