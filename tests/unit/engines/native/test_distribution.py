"""What settings leave of a distribution, against transformers' warpers, and what a number picks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.unit.engines.native.warpers import Fields, logits_of, warped

from llmos.engines.native import device_distribution, distribution
from llmos.types import SamplingParams

VOCAB = 2_000
FIELDS: list[Fields] = [
    {"temperature": 0.7},
    {"top_k": 1},
    {"top_k": 40},
    {"top_k": 700},
    {"top_k": 10_000},
    {"top_p": 0.9},
    {"top_p": 0.999, "temperature": 3.0},  # more than the first candidates
    {"top_p": 0.01},
    {"top_p": 0.0},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"min_p": 0.001, "temperature": 4.0},
    {"top_p": 0.95, "min_p": 0.02},
    {"top_k": 50, "top_p": 0.8},
    {"top_k": 50, "top_p": 0.8, "min_p": 0.1, "temperature": 1.5},
]


def kept_probs(scores: torch.Tensor, fields: Fields) -> torch.Tensor:
    """The CPU's distribution of one row, as probabilities over the vocabulary."""
    ids, weights = distribution.kept(scores.numpy(), SamplingParams(**fields))
    probs = torch.zeros(len(scores), dtype=torch.float64)
    probs[torch.from_numpy(ids)] = torch.from_numpy(
        weights / weights.sum(dtype=np.float64)
    ).double()
    return probs


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_the_distribution_left_is_that_of_transformers(fields: Fields) -> None:
    logits = logits_of(4, VOCAB)
    expected = warped(logits.double(), fields)
    on_device = device_distribution.filtered_probs(logits, [SamplingParams(**fields)] * 4)
    for got, want, row in zip(on_device, expected, logits, strict=True):
        assert torch.equal(kept_probs(row, fields) > 0, want > 0)
        torch.testing.assert_close(kept_probs(row, fields), want, rtol=1e-5, atol=1e-9)
        assert torch.equal(got > 0, want > 0)
        torch.testing.assert_close(got / got.sum(), want)


def test_rows_with_different_settings_are_filtered_each_by_its_own() -> None:
    settings: list[Fields] = [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}, {"temperature": 2}]
    logits = logits_of(len(settings), VOCAB)
    got = device_distribution.filtered_probs(logits, [SamplingParams(**f) for f in settings])
    for i, fields in enumerate(settings):
        expected = warped(logits[i : i + 1].double(), fields)[0]
        torch.testing.assert_close(got[i] / got[i].sum(), expected)


@pytest.mark.parametrize("fields", [{}, *FIELDS], ids=str)
@pytest.mark.parametrize("vocab", [7, 129, VOCAB])
def test_a_number_picks_the_token_at_that_share_of_the_cumulative_sum(
    fields: Fields, vocab: int
) -> None:
    logits = logits_of(1, vocab)
    params = SamplingParams(**fields)
    expected = warped(logits.double(), fields)[0]
    cdf = torch.cat([torch.zeros(1, dtype=torch.float64), expected.cumsum(dim=-1)])
    for number in (0.0, 1e-9, 0.1, 0.25, 0.5, 0.777, 0.9999, 1 - 2.0**-53):
        token = distribution.pick(logits[0].numpy(), params, number)
        assert expected[token] > 0
        assert cdf[token] - 1e-6 <= number <= cdf[token + 1] + 1e-6
        on_device = int(device_distribution.pick(logits, [params], [number])[0])
        assert cdf[on_device] - 1e-9 <= number <= cdf[on_device + 1] + 1e-9


def test_impossible_tokens_are_never_kept_or_picked() -> None:
    scores = np.full(500, -np.inf, dtype=np.float32)
    scores[[3, 77, 400]] = [1.0, 0.5, -2.0]
    for fields in ({}, {"top_k": 50}, {"top_p": 0.999999}, {"min_p": 1e-6}, {"temperature": 99.0}):
        params = SamplingParams(**fields)
        picked = {distribution.pick(scores, params, number / 100) for number in range(100)}
        assert picked <= {3, 77, 400}
    assert distribution.largest(scores, 50).tolist() == [3, 77, 400]


@pytest.mark.parametrize("count", [1, 2, 31, 32, 500, 1_999, 2_000])
def test_the_largest_are_found_with_those_that_tie(count: int) -> None:
    scores = logits_of(1, VOCAB).round(decimals=1)[0]  # many ties
    last = scores.topk(count).values[-1]
    expected = (scores >= last).nonzero()[:, 0].tolist()
    assert distribution.largest(scores.numpy(), count).tolist() == expected


def test_the_log_mass_is_that_of_torch() -> None:
    logits = logits_of(1, 50_000)[0]
    expected = logits.double().logsumexp(dim=-1).item()
    assert distribution.log_mass(logits.numpy()) == pytest.approx(expected, abs=1e-6)
