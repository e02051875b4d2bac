"""The worker's side of what a job asks of its server: any number of asks, answered in any order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future

from llmos.kernel.protocol import Answer, FromWorker, JobAnswer, JobAsk


class OpenAsks:
    """What was asked and is not answered yet. For any thread.

    Args:
        send: passes a message to the server.
    """

    def __init__(self, send: Callable[[FromWorker], None]) -> None:
        self._send = send
        self._ids = itertools.count(1)
        self._open: dict[int, Future[Answer]] = {}
        self._lock = threading.Lock()

    def ask(self, path: str, body: bytes | None) -> Future[Answer]:
        """Ask; the future is done, from another thread, when the answer is here."""
        future: Future[Answer] = Future()
        with self._lock:
            ask_id = next(self._ids)
            self._open[ask_id] = future
        self._send(JobAsk(ask_id, path, body))
        return future

    def take(self, message: JobAnswer) -> None:
        """Take an answer in; one to what was never asked, or given up, is ignored."""
        with self._lock:
            future = self._open.pop(message.id, None)
        if future is not None and future.set_running_or_notify_cancel():
            future.set_result(message.answer)
