"""A further process of a training in whose memory so many rows fit from the third step on."""

from __future__ import annotations

import os
from typing import Any

import torch

from llmos.training import rank
from llmos.training.trainer import Trainer

FITTING_ROWS = "TEST_FITTING_ROWS"
"""The variable that says how many."""
backward = Trainer._backward


def small(self: Trainer, batch: Any, num_labels: int) -> torch.Tensor:
    if self.progress.step >= 2 and len(batch.labels) > int(os.environ[FITTING_ROWS]):
        raise torch.OutOfMemoryError("CUDA out of memory")
    return backward(self, batch, num_labels)


if __name__ == "__main__":
    Trainer._backward = small  # type: ignore[method-assign]
    rank.main()
