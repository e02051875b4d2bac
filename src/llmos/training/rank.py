"""One of the further processes of a training: ``python -m llmos.training.rank``, see `ranks`.

It is told what to do in the first line of its input, and ends when that is closed.
"""

from __future__ import annotations

import os
import sys
import threading

import msgspec

from llmos.errors import LlmosError, OutOfMemoryError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker
from llmos.kernel.worker import die_with_server
from llmos.training import handler, ranks
from llmos.training.distribution import Team


def main() -> None:
    """Train with the others, to the end."""
    die_with_server()
    told = msgspec.json.decode(_first_line(), type=ranks.RankStart)
    threading.Thread(target=_end_with_input, daemon=True).start()
    ranks.join(told.rank, told.size, told.store)
    context = JobContext(told.start, _say_nothing)
    try:
        handler.train(context, Team(told.rank, told.size, told.parallel))
    except OutOfMemoryError as error:  # this one's alone: rank 0 learns of it by the status
        print(f"process {told.rank}: {error.message}", file=sys.stderr, flush=True)
        sys.exit(ranks.OUT_OF_MEMORY)
    except LlmosError as error:  # rank 0 has it too, and tells of it
        print(f"process {told.rank}: {error.message}", file=sys.stderr, flush=True)
        sys.exit(1)
    ranks.leave_together()


def _say_nothing(message: FromWorker) -> None:
    """What is to be told, rank 0 tells."""


def _first_line() -> bytes:
    """Unbuffered: a thread that waits in a buffered reader cannot be left behind at the end."""
    with open(0, "rb", buffering=0, closefd=False) as raw:
        return raw.readline()


def _end_with_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
