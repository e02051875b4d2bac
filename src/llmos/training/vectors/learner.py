"""What learns word vectors step by step: skip-gram, CBOW, GloVe."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Learner(Protocol):
    """Learns in steps that depend on their number and on what it has learned so far, and on no
    other state. Everything that it has learned is in ``module``."""

    num_steps: int
    module: nn.Module

    def step(self, number: int) -> float:
        """Learn from one part of the data; return its mean loss."""
        ...

    def words_in(self, number: int) -> int:
        """Return how many words of the text, or cells of a table, a step reads."""
        ...

    def validation_loss(self) -> float:
        """Return the mean loss on what is held back."""
        ...

    def vectors(self) -> Tensor:
        """Return the vectors ``[vocab, size]``."""
        ...
