"""How far two models' logits are apart."""

from __future__ import annotations

import pytest
import torch

from llmos.compression.comparison import difference


def test_the_same_logits_are_no_distance_apart_nor_are_shifted_ones() -> None:
    logits = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    for other in (logits, logits + torch.arange(5.0)[:, None]):
        found = difference(other, logits)
        assert found.relative_error == pytest.approx(0, abs=1e-6)
        assert (found.top1_agreement, found.tokens) == (1.0, 5)


def test_error_is_relative_and_agreement_is_a_share() -> None:
    theirs = torch.tensor([[3.0, 0, -3], [0, 3, -3]])
    assert difference(theirs * 1.5, theirs).relative_error == pytest.approx(0.5)
    swapped = torch.stack([theirs[0], theirs[1][[1, 0, 2]]])
    assert difference(swapped, theirs).top1_agreement == 0.5
