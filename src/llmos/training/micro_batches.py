"""How many rows of a batch are computed at a time: what fits in memory.

Gradients of the pieces of a batch add up to those of the whole, so the steps stay the recipe's, up
to rounding. What was chosen is kept for the life of a job: another size would round otherwise.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from llmos.data.encoding import IntArray
from llmos.errors import LlmosError, OutOfMemoryError
from llmos.kernel.ledger import format_bytes
from llmos.training import jobs
from llmos.training.distribution import Team, alone
from llmos.training.recipe import Recipe
from llmos.training.recipe_parts import parts_of
from llmos.training.recipe_sharing import WHOLE_BATCH

if TYPE_CHECKING:
    from llmos.kernel.context import JobContext

FREE_SHARE = 0.8


class HalvedError(LlmosError):
    """Memory ran out for one process of several, and half as much is computed at a time from the
    last checkpoint on: the others wait in the middle of a step, which cannot be tried again."""

    code = "training_halved"
    retryable = True


class MicroBatches:
    """Cuts batches, and cuts them smaller when they did not fit.

    Args:
        path: where the size is kept.
        wanted: rows at a time; None: all of a batch, halved once if it does not fit; "auto": begins
            with what is estimated to fit, and is halved as often as it does not.
        batch_rows: of a whole batch.
        estimate: bytes that a job needs with so many rows at a time.
        free_bytes: of the memory that it computes in.
        log: is told of a size that is not what was asked for.
        team: the processes that share a batch; rows are those of each, and all cut alike.
    """

    def __init__(
        self,
        path: Path,
        wanted: int | Literal["auto"] | None,
        batch_rows: int,
        estimate: Callable[[int], int],
        free_bytes: int,
        log: Callable[[str], None],
        team: Team = alone,
    ) -> None:
        self._path, self._estimate, self._log, self._team = path, estimate, log, team
        self._halvings_left = batch_rows if wanted == "auto" else 1
        least, most = team.shares(batch_rows)
        self.rows = most if least > 1 else 1
        if isinstance(wanted, int):
            self.rows = min(wanted, self.rows)
        if path.exists():
            kept = json.loads(path.read_text())
            self.rows, self._halvings_left = kept["rows"], kept["halvings_left"]
        elif wanted == "auto":
            while self.rows > 1 and estimate(self.rows) > free_bytes:
                self.rows = (self.rows + 1) // 2
            log(f"{self.rows} of {batch_rows} rows of a batch at a time")
            self._keep()

    def cut(self, rows: IntArray) -> list[IntArray]:
        """Return this process's rows of a batch in pieces, as many as in every other process: what
        they do together they do once for each."""
        least, most = self._team.shares(len(rows))
        return np.array_split(self._team.own(rows), min(math.ceil(most / self.rows), least))

    def shrink(self) -> None:
        """Take half as many rows at a time from now on: so many did not fit.

        Raises:
            OutOfMemoryError: that was done before, or it was only one.
        """
        if self.rows == 1 or not self._halvings_left:
            smaller = "a smaller batch_size" if self._team.size > 1 else "micro_batch_size=auto"
            raise OutOfMemoryError(
                f"{self.rows} rows at a time do not fit in memory: the training was estimated to "
                f"need {format_bytes(self._estimate(self.rows))}. Use --set {smaller}, "
                "activation_checkpointing=true, fewer max_tokens or block_size, or a smaller model."
            )
        self._log(f"out of memory with {self.rows} rows of a batch at a time: half of that now")
        clear_device_cache(garbage_collection=True)
        self.rows = (self.rows + 1) // 2
        self._halvings_left -= 1
        self._keep()

    def _keep(self) -> None:
        kept = {"rows": self.rows, "halvings_left": self._halvings_left}
        partial = self._path.with_suffix(f".{os.getpid()}.partial")  # others may keep the same
        partial.write_text(json.dumps(kept))
        partial.replace(self._path)


def micro_batches_for(
    context: JobContext, recipe: Recipe, device: torch.device, team: Team
) -> MicroBatches | None:
    """Return how a job cuts its batches; None where their rows are compared with one another."""
    together = team.size if team.shares_rows else 1
    if any(part.objective in WHOLE_BATCH for part in parts_of(recipe)):
        return None
    return MicroBatches(
        context.checkpoint_dir / "micro_batch.json",
        recipe.micro_batch_size,
        recipe.batch_size,
        lambda rows: jobs.estimate_rows_bytes(context.params, rows * together),
        free_bytes(device),
        context.log,
        team,
    )


@contextlib.contextmanager
def memory_errors(params: dict[str, Any]) -> Iterator[None]:
    """Raise OutOfMemoryError, with what a train job was estimated to need, in place of whatever
    else says that memory ran out."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise does_not_fit(params) from error


def does_not_fit(params: dict[str, Any], which: str = "the training") -> OutOfMemoryError:
    """Return the error of a train job that memory ran out for, or for one process of it."""
    needed = format_bytes(jobs.estimate_bytes(params))
    return OutOfMemoryError(
        f"{which} does not fit in memory: it was estimated to need {needed}. Use a smaller "
        "batch_size, activation_checkpointing=true, fewer max_tokens or block_size, or a smaller "
        "model."
    )


def halved(rank: int) -> HalvedError:
    """Return the error of a training of several processes, one of which took half as many rows at a
    time."""
    return HalvedError(
        f"memory ran out in process {rank} of the training: half as many rows of a batch at a time "
        "from the last checkpoint on"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the host or of a device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and should_reduce_batch_size(error)
    )


def free_bytes(device: torch.device) -> int:
    """Return how much memory of a device's a training may count on."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = psutil.virtual_memory().available
    return int(free * FREE_SHARE)
