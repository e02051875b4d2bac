"""Records that mean the same: those at a small angle, whatever the order and the length."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmos.data.operators.semantic import SemanticDedup
from llmos.data.pipeline.record import Record
from llmos.data.pipeline.steps import apply


def at_cosine(cosine: float, count: int, size: int = 48) -> list[tuple[list[float], list[float]]]:
    """Pairs of unit vectors at one angle."""
    draw = np.random.default_rng(0)
    pairs = []
    for _ in range(count):
        one = draw.standard_normal(size)
        one /= np.linalg.norm(one)
        other = draw.standard_normal(size)
        other -= (other @ one) * one
        other /= np.linalg.norm(other)
        near = cosine * one + math.sqrt(1 - cosine**2) * other
        pairs.append((one.tolist(), near.tolist()))
    return pairs


@pytest.mark.parametrize(("cosine", "wanted"), [(0.99, 1.0), (0.95, 0.88), (0.8, 0.04), (0.0, 0.0)])
def test_pairs_are_found_as_often_as_is_said(cosine: float, wanted: float) -> None:
    operator = SemanticDedup(3)
    pairs = at_cosine(cosine, 150)
    found = sum(
        not set(operator.keys(Record("a", {"embedding": one}))).isdisjoint(
            operator.keys(Record("b", {"embedding": other}))
        )
        for one, other in pairs
    )
    assert abs(found / len(pairs) - wanted) <= 0.08


def test_length_and_order_do_not_matter_and_clusters_hang_together() -> None:
    (one, near), (far, _) = at_cosine(0.995, 2)
    records = [
        Record("1", {"embedding": one}),
        Record("2", {"embedding": far}),
        Record("3", {"embedding": [7 * number for number in near]}),
    ]
    kept = {one.id for one in apply([SemanticDedup()], records).records}
    assert kept == {"1", "2"}
    kept = {one.id for one in apply([SemanticDedup()], records[::-1]).records}
    assert kept == {"3", "2"}


def test_what_has_no_embedding_is_rejected() -> None:
    done = apply([SemanticDedup()], [Record("1", {"text": "x"})])
    assert "`embed` it first" in done.outcome.rejected[0]["reason"]
