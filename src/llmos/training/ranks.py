"""Starts the other processes of a training beside this one, and ends all when one is lost.

They are of this process's session: what stops, holds or measures a job's worker does it to them
too. Only this one, rank 0, talks to the server, writes checkpoints and publishes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import patch_environment

from llmos.engines.base import find_device
from llmos.errors import LlmosError
from llmos.kernel.child import describe_exit, thread_environ
from llmos.kernel.protocol import StartJob
from llmos.training.distribution import Parallel, Team, alone
from llmos.training.micro_batches import does_not_fit, halved
from llmos.training.recipe import Recipe

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

MODULE = "llmos.training.rank"
LONGEST_PAUSE = timedelta(days=365)
"""For as long one process waits for another that is alive: a job may be held."""
NOTICE_S = 10.0
"""Within so long the loss of a process is noticed by whoever waits for it; or all end."""
LOSS_S = 2.0
END_S = 30.0
OUT_OF_MEMORY, HALVED = errno.ENOMEM, errno.EAGAIN
"""The exit statuses of a process that memory ran out for: for good, and after which half as much is
tried."""


class RankLostError(LlmosError):
    """One of the processes of a training ended before its time."""

    code = "training_process_lost"
    retryable = True


class RankStart(msgspec.Struct):
    """What the process of one rank is told."""

    start: StartJob
    rank: int
    size: int
    parallel: Parallel
    store: str
    device: str


@dataclass(slots=True)
class _Ranks:
    """The processes of rank 1 and on, each watched by a thread.

    Args:
        params: of the job.
        fail: tells the server how the job failed.
    """

    params: dict[str, Any]
    fail: Callable[[LlmosError], None]
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    is_lost: threading.Event = field(default_factory=threading.Event)
    lost: LlmosError | None = None
    """Of the first that ended before its time."""

    def watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        if self.is_over.is_set() or status == 0:
            return
        self.lost = self.lost or self._error(rank, status)
        self.is_lost.set()
        if not self.is_over.wait(NOTICE_S):  # a device may wait for it forever
            print(f"{self.lost.message}: all end", file=sys.stderr, flush=True)
            self.fail(self.lost)
            os._exit(1)

    def _error(self, rank: int, status: int) -> LlmosError:
        which = f"process {rank} of the training"
        if status == OUT_OF_MEMORY:
            return does_not_fit(self.params, which)
        if status == HALVED:
            return halved(rank)
        return RankLostError(f"{which} {describe_exit(status)}")

    def wait_for_loss(self) -> LlmosError | None:
        """Return how one was lost, if one was: whoever waits for it may know before its watcher."""
        self.is_lost.wait(LOSS_S)
        return self.lost

    def end(self) -> None:
        self.is_over.set()
        for process in self.processes:
            process.kill()
            process.communicate()


@contextlib.contextmanager
def together(context: JobContext, recipe: Recipe) -> Iterator[Team]:
    """Have the processes that a recipe asks for train together; yield this one's team.

    With fewer devices than processes there are only as many processes, which the job's log says;
    the steps are the same.

    Raises:
        RankLostError: one of them ended; the job may go on from its last checkpoint.
        HalvedError: memory ran out for one of the others, and the job may go on so too.
        OutOfMemoryError: memory ran out for one of the others, and nothing smaller can be tried.
    """
    own = find_device(os.environ.get("LLMOS_DEVICE", "cpu"))
    devices = list(context.devices) or devices_for(recipe.processes, own)
    if len(devices) < recipe.processes:
        context.log(f"{len(devices)} devices for {recipe.processes} processes: one for each device")
    if len(devices) == 1:
        yield alone
        return
    ranks = _Ranks(context.params, context.fail)
    with tempfile.TemporaryDirectory(prefix="llmos-ranks-") as directory:
        store = str(Path(directory) / "store")
        threads = threads_each(context.threads, len(devices))
        try:
            for rank in range(1, len(devices)):
                told = RankStart(
                    _start(context, threads), rank, len(devices), recipe.parallel, store,
                    devices[rank],
                )  # fmt: skip
                ranks.processes.append(_started(told, threads))
                args = (rank, ranks.processes[-1])
                threading.Thread(target=ranks.watch, args=args, daemon=True).start()
            torch.set_num_threads(threads)
            yield join(0, len(devices), recipe.parallel, store, devices[0])
            PartialState().wait_for_everyone()
            for process in ranks.processes:
                process.wait(END_S)
        except RuntimeError as error:
            if (lost := ranks.wait_for_loss()) is None:
                raise
            if not isinstance(lost, RankLostError):
                raise lost from error
            raise RankLostError(f"{lost.message}, and so all did: {first_line(error)}") from error
        finally:
            ranks.end()
            leave()
            torch.set_num_threads(max(1, context.threads))


def devices_for(processes: int, device: str) -> list[str]:
    """Return the device of each process, from ``device`` on: "cpu" or "cuda:N"."""
    if processes == 1 or device == "cpu":
        return [device] * processes
    kind, _, first = device.partition(":")
    numbers = range(int(first or 0), torch.cuda.device_count())
    return [f"{kind}:{number}" for number in numbers][:processes] or [device]


def threads_each(threads: int, size: int) -> int:
    """Return how many of a job's threads each process has."""
    return max(1, threads // size)


def join(rank: int, size: int, parallel: Parallel, store: str, device: str) -> Team:
    """Meet the other processes through a file, as one that computes on a device of its own; wait
    for them."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)
    place = torch.device(device)
    launched = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank if place.index is None else place.index,  # accelerate's device
        "LOCAL_WORLD_SIZE": size,
        "MASTER_PORT": 0,  # none is used
        "OMP_NUM_THREADS": torch.get_num_threads(),
    }
    with patch_environment(**launched):
        state = PartialState(
            cpu=place.type == "cpu",
            backend="gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=torch._C._distributed_c10d.FileStore(store, size),
            rank=rank,
            world_size=size,
            timeout=LONGEST_PAUSE,
        )
    return Team(state.process_index, state.num_processes, parallel)


def leave() -> None:
    """Be one process alone again."""
    if dist.is_initialized():
        dist.destroy_process_group()
    PartialState._reset_state()


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _start(context: JobContext, threads: int) -> StartJob:
    return StartJob(
        job_id=context.job_id,
        fence=0,
        attempt=context.attempt,
        handler="",
        name=context.name,
        params=context.params,
        owner=context.owner,
        home=str(context.home),
        checkpoint_dir=str(context.checkpoint_dir),
        threads=threads,
        heartbeat_s=0.0,
    )


def _started(told: RankStart, threads: int) -> subprocess.Popen[bytes]:
    """Start a rank's process, which ends when its input is closed."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.PIPE,
        env={**os.environ, **thread_environ(threads), "LLMOS_DEVICE": told.device},
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(told) + b"\n")
    process.stdin.flush()
    return process
