"""A further process of a training that memory runs out for, in the third step."""

from __future__ import annotations

from typing import Any

import torch

from llmos.training import rank
from llmos.training.trainer import Trainer

backward = Trainer._backward


def full(self: Trainer, batch: Any, num_labels: int) -> torch.Tensor:
    if self.progress.step == 2:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return backward(self, batch, num_labels)


if __name__ == "__main__":
    Trainer._backward = full  # type: ignore[method-assign]
    rank.main()
