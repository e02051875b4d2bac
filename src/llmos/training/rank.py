"""One of the further processes of a training: ``python -m llmos.training.rank``, see `ranks`.

It is told what to do in the first line of its input, and ends when that is closed.
"""

from __future__ import annotations

import os
import sys
import threading

import msgspec
from accelerate import PartialState

from llmos.errors import CancelledError, LlmosError, OutOfMemoryError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import FromWorker
from llmos.kernel.worker import die_with_server
from llmos.training import handler, ranks
from llmos.training.micro_batches import HalvedError


def main() -> None:
    """Train with the others, to the end."""
    die_with_server()
    told = msgspec.json.decode(_first_line(), type=ranks.RankStart)
    threading.Thread(target=_end_with_input, daemon=True).start()
    team = ranks.join(told.rank, told.size, told.parallel, told.store, told.device)
    try:
        handler.train(JobContext(told.start, _say_nothing), team)
    except LlmosError as error:
        print(f"process {told.rank}: {error.message}", file=sys.stderr, flush=True)
        os._exit(_status(error))  # at once: the others see that it is gone, and wait for its status
    PartialState().wait_for_everyone()


def _status(error: LlmosError) -> int:
    """Return what rank 0 is to know of an error."""
    if isinstance(error, CancelledError):
        return 0  # all leave, rank 0 once its checkpoint is written
    if isinstance(error, HalvedError):
        return ranks.HALVED
    return ranks.OUT_OF_MEMORY if isinstance(error, OutOfMemoryError) else 1


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
