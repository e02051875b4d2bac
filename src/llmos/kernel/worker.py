"""The job worker process: ``python -m llmos.kernel.worker FD`` runs one job and says how it ended.

It ends when its socket closes, whatever the handler is doing.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from llmos.errors import CancelledError, LlmosError
from llmos.kernel.context import JobContext
from llmos.kernel.imports import load
from llmos.kernel.protocol import (
    CancelJob,
    Heartbeat,
    JobAnswer,
    JobDone,
    JobFailed,
    PauseJob,
    StartJob,
    SyncChannel,
    ToWorker,
    encode,
)
from llmos.types import JobResult

Handler = Callable[[JobContext], JobResult]

PR_SET_PDEATHSIG = 1


def main(argv: list[str]) -> None:
    """Run the job that the server sends on the inherited descriptor ``argv[0]``."""
    die_with_server()
    channel = SyncChannel.from_fd(int(argv[0]), ToWorker)
    channel.send(Heartbeat())  # from now on it may be stopped by signal
    start = channel.receive()
    if not isinstance(start, StartJob):
        return
    context = JobContext(start, channel.send)
    for target, args in ((_listen, (channel, context)), (_beat, (channel, start.heartbeat_s))):
        threading.Thread(target=target, args=args, daemon=True).start()
    channel.send(attempt(start.handler, context))


def die_with_server() -> None:
    """Have the system kill this process when the server dies, on Linux.

    A worker ends by itself when its socket closes, but not while it is stopped (SIGSTOP): a killed
    server would leave it stopped for good. The signal comes when the *thread* that forked this
    process ends. That is the thread of the kernel's event loop, which outlives all workers: it
    waits for them before it ends, and if it dies without, nobody is left to let them go on. Should
    the server have died before this call, the parent is another by now or the socket is closed.
    Processes that a handler starts are not covered; a handler that starts any must see to them.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def attempt(handler: str, context: JobContext) -> JobDone | JobFailed:
    """Run a handler and return how it ended; nothing it raises escapes.

    Mistakes of the user and of whoever named the handler are final. What nobody foresaw, and errors
    that call themselves retryable, may be tried again.
    """
    try:
        run: Handler = load(handler)
    except (ImportError, AttributeError, ValueError) as error:
        traceback.print_exc()
        return JobFailed(LlmosError.code, f"The handler {handler} cannot be used: {error}", False)
    try:
        done = JobDone(run(context))
        encode(done)
    except CancelledError as error:
        return JobFailed(error.code, error.message, False)
    except LlmosError as error:
        if type(error) is LlmosError:  # nobody foresaw it
            traceback.print_exc()
        else:
            print(f"attempt {context.attempt}: {error.message}", file=sys.stderr, flush=True)
        return JobFailed(error.code, error.message, error.retryable)
    except Exception as error:  # the top loop: whatever a handler raises is the job's error
        traceback.print_exc()
        return JobFailed(LlmosError.code, f"{type(error).__name__}: {error}", True)
    return done


def _listen(channel: SyncChannel, context: JobContext) -> None:
    while (message := channel.receive()) is not None:
        if isinstance(message, JobAnswer):
            context.answered(message)
        elif isinstance(message, CancelJob):
            context.leave() if message.keep else context.cancel()
        elif isinstance(message, PauseJob):
            context.pause(message.paused, message.still_s, give_memory=message.give_memory)
    os._exit(1)  # the server is gone: nobody would take the result


def _beat(channel: SyncChannel, interval_s: float) -> None:
    never = threading.Event()
    while not never.wait(interval_s):
        channel.send(Heartbeat())


if __name__ == "__main__":
    main(sys.argv[1:])
