"""One of the processes that do the shards of a job: ``python -m llmos.data.pipeline.child``.

It takes one task a line of its input, answers each with a line, and ends when its input is closed.
What an operator asks of models goes out on lines between, and comes back likewise.
"""

from __future__ import annotations

import os
import queue
import resource
import threading
import traceback

import msgspec

from llmos.data.datasets.dealing import (
    DealTask,
    GatherTask,
    KeyTask,
    run_deal,
    run_gather,
    run_keys,
)
from llmos.data.datasets.reading import CutTask, ReadTask, run_cut, run_read
from llmos.data.pipeline.asking import Ask, Asker, Question, Reply
from llmos.data.pipeline.comparing import CompareTask, GroupTask, run_compare, run_group
from llmos.data.pipeline.consulting import IndexTask, run_index
from llmos.data.pipeline.shard import ShardTask, run_shard
from llmos.errors import DataError, LlmosError
from llmos.kernel.worker import die_with_server

Task = (
    ShardTask
    | CompareTask
    | GroupTask
    | IndexTask
    | CutTask
    | ReadTask
    | KeyTask
    | DealTask
    | GatherTask
)
MEMORY_BYTES = 2 * 2**30
"""That a process may take; a shard takes a tenth of it. What would take more, as a file does that
holds next to nothing many million times, fails alone."""


class Answer(msgspec.Struct, tag="answer"):
    """How a task ended: well, where there is no code."""

    code: str = ""
    message: str = ""


def main() -> None:
    """Do the tasks."""
    die_with_server()
    limit_memory(MEMORY_BYTES)
    answers = os.dup(1)
    os.dup2(2, 1)  # what an operator prints is no answer
    tasks: queue.SimpleQueue[Task] = queue.SimpleQueue()
    replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(tasks, replies), daemon=True).start()

    def send(message: Answer | Question) -> None:
        line = memoryview(msgspec.json.encode(message) + b"\n")
        while line:
            line = line[os.write(answers, line) :]

    ask = Asker(send, replies.get)
    while True:
        send(perform(tasks.get(), ask))


def perform(task: Task, ask: Ask) -> Answer:
    """Do a task; nothing that it raises escapes."""
    try:
        match task:
            case ShardTask():
                run_shard(task, ask)
            case CompareTask():
                run_compare(task)
            case GroupTask():
                run_group(task)
            case IndexTask():
                run_index(task)
            case CutTask():
                run_cut(task)
            case ReadTask():
                run_read(task)
            case KeyTask():
                run_keys(task)
            case DealTask():
                run_deal(task)
            case GatherTask():
                run_gather(task)
    except LlmosError as error:
        return Answer(error.code, error.message)
    except MemoryError:
        told = (
            f"rows take more than the {MEMORY_BYTES // 2**30} GB of memory that there are for them"
        )
        return Answer(DataError.code, told)
    except Exception as error:  # the top loop of a process
        traceback.print_exc()
        return Answer(LlmosError.code, f"{type(error).__name__}: {error}")
    return Answer()


def limit_memory(num_bytes: int) -> None:
    """Have this process get no more memory than that, where the system keeps to it."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    least = num_bytes if most == resource.RLIM_INFINITY else min(num_bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (least, most))


def _read(tasks: queue.SimpleQueue[Task], replies: queue.SimpleQueue[Reply]) -> None:
    with open(0, "rb", closefd=False) as source:
        for line in source:
            message = msgspec.json.decode(line, type=Task | Reply)
            if isinstance(message, Reply):
                replies.put(message)
            else:
                tasks.put(message)
    os._exit(1)


if __name__ == "__main__":
    main()
