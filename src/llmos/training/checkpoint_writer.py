"""Writes checkpoints while training goes on: it stands still only for a copy in memory.

The copy's memory is kept from one checkpoint to the next, since pages that are new to a process
cost several times the copy. One checkpoint is written at a time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from pathlib import Path

import torch
from torch import Tensor, nn

from llmos.training import checkpoint
from llmos.training.checkpoint import BEST, Progress, Snapshot, Weights
from llmos.training.distribution import gathered, whole


class CheckpointWriter:
    """Writes the checkpoints of one run under ``root``. Belongs to one thread.

    Args:
        writes: whether this process writes; others only give their parts of the weights.
        keep_at: steps whose checkpoint stays.
    """

    def __init__(self, root: Path, *, writes: bool = True, keep_at: Collection[int] = ()) -> None:
        self._root = root
        self._keep_at = frozenset(keep_at)
        self._writes = writes
        self._copies: dict[str, Weights] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.has_room = False
        """Whether the memory of copies is there, or is being made ready."""

    @property
    def is_busy(self) -> bool:
        """Whether something is being written, or made ready."""
        return self._thread is not None and self._thread.is_alive()

    def reserve(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None:
        """Have the memory of later copies made ready meanwhile; call it after the first step."""
        self.has_room = True
        if not self._writes:
            return
        taken = checkpoint.snapshot(model, optimizer, progress)
        self._begin(lambda: self._make_copies(taken))

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Copy a checkpoint of this step and return; it is written meanwhile. One that is still
        being written is awaited first.

        Raises:
            OSError: the one before could not be written.
        """
        self.wait()
        taken = self._copied(checkpoint.snapshot(model, optimizer, progress))
        if self._writes:
            self._begin(lambda: checkpoint.write(self._root, taken, self._keep_at))

    def save_last(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ) -> None:
        """Write a checkpoint of this step, after which nothing changes, without a copy of it.

        Raises:
            OSError: it, or the one before, could not be written.
        """
        self.wait()
        taken = checkpoint.snapshot(model, optimizer, progress)
        files = {name: gathered(own) for name, own in taken.files.items()}
        if self._writes:
            last = Snapshot(taken.step, files, taken.state)
            checkpoint.write(self._root, last, self._keep_at)

    def wait(self) -> None:
        """Return once nothing is being written.

        Raises:
            OSError: what was being written could not be.
        """
        self.settle()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def settle(self) -> None:
        """Return once nothing is being written, whether or not it could be."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _begin(self, work: Callable[[], None]) -> None:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # it is raised where the training waits for it
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def _copied(self, taken: Snapshot) -> Snapshot:
        """Return the snapshot with tensors of its own, in host memory."""
        self.has_room = True
        if self._writes:
            self._make_copies(taken)
        files: dict[str, Weights] = {}
        for name, tensors in taken.files.items():
            if name == BEST:  # they are replaced, never changed
                files[name] = gathered(tensors)
                continue
            files[name] = self._copies.get(name, {})
            for key, tensor in tensors.items():
                all_of_it = whole(tensor)
                if self._writes:
                    files[name][key].copy_(all_of_it, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return Snapshot(taken.step, files, taken.state)

    def _make_copies(self, taken: Snapshot) -> None:
        """See that there is touched memory for every tensor that is copied."""
        for name, tensors in taken.files.items():
            if name != BEST:
                kept = self._copies.setdefault(name, {})
                for key, tensor in tensors.items():
                    if key not in kept:
                        kept[key] = _room_for(tensor)


def _room_for(tensor: Tensor) -> Tensor:
    """Return host memory of a tensor's size, each page of it there."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
