"""One of the processes that do the shards of a job: ``python -m llmos.data.pipeline.child``.

It takes one task a line of its input, answers each with a line, and ends when its input is closed.
"""

from __future__ import annotations

import os
import queue
import threading
import traceback

import msgspec

from llmos.data.datasets.reading import ReadTask, run_read
from llmos.data.pipeline.shard import CompareTask, ShardTask, run_compare, run_shard
from llmos.errors import LlmosError
from llmos.kernel.worker import die_with_server

Task = ShardTask | CompareTask | ReadTask


class Answer(msgspec.Struct):
    """How a task ended: well, where there is no code."""

    code: str = ""
    message: str = ""


def main() -> None:
    """Do the tasks."""
    die_with_server()
    answers = os.dup(1)
    os.dup2(2, 1)  # what an operator prints is no answer
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    while True:
        answer = perform(msgspec.json.decode(lines.get(), type=Task))
        os.write(answers, msgspec.json.encode(answer) + b"\n")


def perform(task: Task) -> Answer:
    """Do a task; nothing that it raises escapes."""
    try:
        match task:
            case ShardTask():
                run_shard(task)
            case CompareTask():
                run_compare(task)
            case ReadTask():
                run_read(task)
    except LlmosError as error:
        return Answer(error.code, error.message)
    except Exception as error:  # the top loop of a process
        traceback.print_exc()
        return Answer(LlmosError.code, f"{type(error).__name__}: {error}")
    return Answer()


def _read(lines: queue.SimpleQueue[bytes]) -> None:
    with open(0, "rb", closefd=False) as source:
        for line in source:
            lines.put(line)
    os._exit(1)


if __name__ == "__main__":
    main()
