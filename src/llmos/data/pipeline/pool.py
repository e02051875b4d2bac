"""The processes of a job that do its shards, and how they give way with it.

They are of the job worker's session: what stops or measures it does so to them too.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from llmos.data.pipeline.asking import READS, Question, Reply
from llmos.data.pipeline.child import Answer, Task
from llmos.errors import CancelledError, LlmosError, told_error
from llmos.kernel import protocol
from llmos.kernel.child import describe_exit, thread_environ

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

MODULE = "llmos.data.pipeline.child"
LOOK_S = 0.02


class ChildLostError(LlmosError):
    """One of the processes of a data job ended before its time."""

    code = "data_process_lost"
    retryable = True


class Pool:
    """Processes that do tasks. Make one with `open_pool`."""

    def __init__(self, context: JobContext, size: int) -> None:
        self._context = context
        self._answers: queue.SimpleQueue[tuple[int, Answer | None]] = queue.SimpleQueue()
        self._children = [_started() for _ in range(max(1, size))]
        self._outboxes: list[queue.SimpleQueue[Task | Reply | None]] = [
            queue.SimpleQueue() for _ in self._children
        ]
        self._threads = [
            threading.Thread(target=target, args=args, daemon=True)
            for args in enumerate(self._children)
            for target in (self._listen, self._write)
        ]
        for thread in self._threads:
            thread.start()

    def run(self, tasks: Sequence[Task], on_done: Callable[[int], None]) -> None:
        """Do tasks; ``on_done`` is called with the place of each that is done, in any order.

        Raises:
            ChildLostError: a process ended; what is done stays done.
            CancelledError: the job is to end, or to leave its worker.
            LlmosError: a task raised it.
        """
        waiting = deque(enumerate(tasks))
        at_work: dict[int, int] = {}
        for number in range(min(len(self._children), len(waiting))):
            at_work[number] = self._give(number, waiting)
        while at_work:
            self._give_way()
            with contextlib.suppress(queue.Empty):
                number, answer = self._answers.get(timeout=LOOK_S)
                self._check(number, answer)
                on_done(at_work.pop(number))
                if waiting:
                    at_work[number] = self._give(number, waiting)

    def close(self) -> None:
        """End the processes."""
        for child, outbox in zip(self._children, self._outboxes, strict=True):
            child.kill()
            child.wait()
            outbox.put(None)
        for thread in self._threads:
            thread.join()
        for child in self._children:
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _give(self, number: int, waiting: deque[tuple[int, Task]]) -> int:
        place, task = waiting.popleft()
        self._outboxes[number].put(task)
        return place

    def _check(self, number: int, answer: Answer | None) -> None:
        if answer is None:
            status = self._children[number].wait()
            raise ChildLostError(f"process {number + 1} of the job {describe_exit(status)}")
        if answer.code:
            raise told_error(answer.code, answer.message)

    def _give_way(self) -> None:
        context = self._context
        if context.should_pause():
            self._signal(signal.SIGSTOP)
            context.wait_while_paused()
            self._signal(signal.SIGCONT)
        context.raise_if_cancelled()
        if context.is_leaving:
            raise CancelledError

    def _signal(self, number: int) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    def _listen(self, number: int, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            try:
                message = msgspec.json.decode(line, type=Answer | Question)
            except msgspec.DecodeError:  # half a line: it ended while it wrote
                child.kill()
                break
            if isinstance(message, Question):
                self._ask(number, message)
            else:
                self._answers.put((number, message))
        self._answers.put((number, None))

    def _ask(self, number: int, question: Question) -> None:
        """Ask the server; the reply goes to the process when it is here."""
        body = None if bytes(question.body) == READS else bytes(question.body)

        def on_answer(future: Future[protocol.Answer]) -> None:
            told = future.result()
            text = told.body.decode("utf-8", "replace")
            self._outboxes[number].put(Reply(question.id, told.status, text, told.retry_after_s))

        try:
            self._context.ask(question.path, body).add_done_callback(on_answer)
        except protocol.UnsendableError as error:
            self._outboxes[number].put(Reply(question.id, 413, str(error)))

    def _write(self, number: int, child: subprocess.Popen[bytes]) -> None:
        """Write what is for a process, apart: one that is stopped does not read."""
        assert child.stdin is not None
        while (message := self._outboxes[number].get()) is not None:
            with contextlib.suppress(BrokenPipeError):  # its listener tells of its end
                child.stdin.write(msgspec.json.encode(message) + b"\n")
                child.stdin.flush()


@contextlib.contextmanager
def open_pool(context: JobContext, tasks: int) -> Iterator[Pool]:
    """Start as many processes as the job has threads, and there are tasks; end them after."""
    pool = Pool(context, min(context.threads or 1, tasks))
    try:
        yield pool
    finally:
        pool.close()


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **thread_environ(1)},
    )
