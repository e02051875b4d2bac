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
from typing import TYPE_CHECKING

import msgspec

from llmos.data.pipeline.child import Answer, Task
from llmos.errors import CancelledError, LlmosError, by_code
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
        self._answers: queue.SimpleQueue[tuple[int, bytes]] = queue.SimpleQueue()
        self._children = [_started() for _ in range(max(1, size))]
        self._listeners = [
            threading.Thread(target=self._listen, args=args, daemon=True)
            for args in enumerate(self._children)
        ]
        for listener in self._listeners:
            listener.start()

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
                number, line = self._answers.get(timeout=LOOK_S)
                self._check(number, line)
                on_done(at_work.pop(number))
                if waiting:
                    at_work[number] = self._give(number, waiting)

    def close(self) -> None:
        """End the processes."""
        for child, listener in zip(self._children, self._listeners, strict=True):
            child.kill()
            child.wait()
            listener.join()
            for pipe in (child.stdin, child.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _give(self, number: int, waiting: deque[tuple[int, Task]]) -> int:
        place, task = waiting.popleft()
        stdin = self._children[number].stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its listener tells of its end
            stdin.write(msgspec.json.encode(task) + b"\n")
            stdin.flush()
        return place

    def _check(self, number: int, line: bytes) -> None:
        if not line:
            status = self._children[number].wait()
            raise ChildLostError(f"process {number + 1} of the job {describe_exit(status)}")
        answer = msgspec.json.decode(line, type=Answer)
        if answer.code:
            raise by_code(answer.code)(answer.message)

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
            self._answers.put((number, line))
        self._answers.put((number, b""))


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
