"""The job worker process: ``python -m llmos.kernel.worker FD`` runs one job and says how it ended.

It ends when its socket closes, whatever the handler is doing.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import traceback
from collections.abc import Callable

from llmos.errors import CancelledError, LlmosError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import (
    CancelJob,
    Heartbeat,
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


def main(argv: list[str]) -> None:
    """Run the job that the server sends on the inherited descriptor ``argv[0]``."""
    channel = SyncChannel.from_fd(int(argv[0]), ToWorker)
    start = channel.receive()
    if not isinstance(start, StartJob):
        return
    context = JobContext(start, channel.send)
    for target, args in ((_listen, (channel, context)), (_beat, (channel, start.heartbeat_s))):
        threading.Thread(target=target, args=args, daemon=True).start()
    channel.send(attempt(start.handler, context))


def attempt(handler: str, context: JobContext) -> JobDone | JobFailed:
    """Run a handler and return how it ended; nothing it raises escapes.

    Mistakes of the user and of whoever named the handler are final. What nobody foresaw, and errors
    that call themselves retryable, may be tried again.
    """
    try:
        run = resolve(handler)
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


def resolve(handler: str) -> Handler:
    """Import ``"package.module:function"``. Raises ImportError, AttributeError, ValueError."""
    module, _, function = handler.partition(":")
    if not function:
        raise ValueError("it must be named 'package.module:function'")
    found: Handler = getattr(importlib.import_module(module), function)
    return found


def _listen(channel: SyncChannel, context: JobContext) -> None:
    while (message := channel.receive()) is not None:
        if isinstance(message, CancelJob):
            context.cancel()
        elif isinstance(message, PauseJob):
            context.pause(message.paused)
    os._exit(1)  # the server is gone: nobody would take the result


def _beat(channel: SyncChannel, interval_s: float) -> None:
    never = threading.Event()
    while not never.wait(interval_s):
        channel.send(Heartbeat())


if __name__ == "__main__":
    main(sys.argv[1:])
