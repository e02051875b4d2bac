"""Sampling against transformers' logits processors and against the exact distribution."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as hf

from llmos.engines.native.sampler import SampledRow, filtered_probs, penalize, sample
from llmos.types import SamplingParams

VOCAB = 600
Fields = dict[str, Any]


def logits_of(rows: int, vocab: int = VOCAB, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3)) * scale


def row(token_ids: tuple[int, ...] = (0,), num_prompt: int = 1, **fields: Any) -> SampledRow:
    return SampledRow(SamplingParams(**fields), 0, token_ids, num_prompt)


def warped(scores: torch.Tensor, fields: Fields) -> torch.Tensor:
    """What transformers leaves of the distribution, as probabilities."""
    warpers: list[Any] = [hf.TemperatureLogitsWarper(fields.get("temperature", 1.0))]
    if fields.get("top_k"):
        warpers.append(hf.TopKLogitsWarper(fields["top_k"]))
    if fields.get("top_p", 1.0) < 1:
        warpers.append(hf.TopPLogitsWarper(fields["top_p"]))
    if fields.get("min_p"):
        warpers.append(hf.MinPLogitsWarper(fields["min_p"]))
    for warper in warpers:
        scores = warper(torch.zeros(len(scores), 1, dtype=torch.long), scores)
    return scores.softmax(dim=-1)


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.7},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 10_000},
        {"top_p": 0.9},
        {"top_p": 0.999, "temperature": 3.0},  # more than the first candidates
        {"top_p": 0.01},
        {"min_p": 0.05},
        {"top_k": 50, "top_p": 0.8},
        {"top_k": 50, "top_p": 0.8, "min_p": 0.1, "temperature": 1.5},
    ],
)
def test_the_filtered_distribution_is_that_of_transformers(fields: Fields) -> None:
    logits = logits_of(8)
    got = filtered_probs(logits, [SamplingParams(**fields)] * 8)
    expected = warped(logits.double(), fields)
    assert torch.equal(got > 0, expected > 0)
    torch.testing.assert_close(got / got.sum(dim=-1, keepdim=True), expected)


def test_rows_with_different_settings_are_filtered_each_by_its_own() -> None:
    settings: list[Fields] = [
        {},
        {"top_k": 3},
        {"top_p": 0.5},
        {"min_p": 0.2},
        {"temperature": 2.0},
    ]
    logits = logits_of(len(settings))
    got = filtered_probs(logits, [SamplingParams(**fields) for fields in settings])
    for i, fields in enumerate(settings):
        expected = warped(logits[i : i + 1].double(), fields)[0]
        torch.testing.assert_close(got[i] / got[i].sum(), expected)


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = logits_of(1)
    ids = (5, 9, 5, 11)
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits)
    got = penalize(logits, [row(ids, 2, repetition_penalty=penalty)])
    torch.testing.assert_close(got, expected)


def test_presence_and_frequency_count_the_output_only() -> None:
    logits = logits_of(2)
    output = (7, 7, 8)
    got = penalize(
        logits, [row(), row((9, 7, *output), 2, presence_penalty=0.5, frequency_penalty=0.25)]
    )
    expected = logits.clone()
    for token, count in Counter(output).items():
        expected[1, token] -= 0.5 + 0.25 * count
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    "fields",
    [{}, {"temperature": 0.5}, {"top_p": 0.8}, {"top_k": 5}, {"temperature": 2.0, "min_p": 0.1}],
)
def test_sampled_tokens_follow_the_distribution(fields: Fields) -> None:
    """Pearson's chi-square statistic stays under its 99.9 % quantile."""
    count = 10_000
    logits = logits_of(1, vocab=30, scale=1.5)
    params = SamplingParams(seed=11, **fields)
    rows = [SampledRow(params, 0, range(n + 1), 1) for n in range(count)]
    tokens = [piece.token_id for piece in sample(logits.expand(count, -1), rows) if piece]
    observed = torch.bincount(torch.tensor(tokens), minlength=30).double()
    expected = warped(logits.double(), fields)[0] * count
    is_possible = expected > 0
    assert observed[~is_possible].sum() == 0
    chi2 = ((observed - expected) ** 2 / expected)[is_possible].sum().item()
    degrees = int(is_possible.sum()) - 1
    quantile = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert chi2 < quantile  # Wilson-Hilferty


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = logits_of(4)
    pieces = sample(logits, [row(temperature=0)] * 4)
    assert [piece.token_id for piece in pieces if piece] == logits.argmax(dim=-1).tolist()


def test_a_row_gets_the_same_token_alone_and_among_others() -> None:
    logits = logits_of(16)
    rows = [
        row((0,) * (i + 1), temperature=0.3 * i, top_p=1 - i / 20, top_k=i * 3, seed=i)
        for i in range(16)
    ]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], [rows[i]])[0] for i in range(16)]


def test_logprobs_are_of_the_unmodified_distribution() -> None:
    logits = logits_of(3)
    rows = [
        row(temperature=0.2, top_k=1, logprobs=4, presence_penalty=2.0),
        row(temperature=0),
        row(temperature=0, logprobs=0),
    ]
    first, second, third = sample(logits, rows)
    assert first is not None
    assert second is not None
    assert third is not None
    exact = logits.log_softmax(dim=-1)
    top = exact[0].topk(4)
    assert first.logprob == pytest.approx(exact[0, first.token_id].item())
    assert [token for token, _ in first.top] == top.indices.tolist()
    assert [value for _, value in first.top] == pytest.approx(top.values.tolist())
    assert (second.logprob, second.top) == (None, ())
    assert third.logprob == pytest.approx(exact[2].max().item())
    assert third.top == ()


def test_the_likelihood_of_a_tiny_temperature_is_the_greedy_choice() -> None:
    logits = logits_of(4)
    pieces = sample(logits, [row(temperature=1e-6)] * 4)
    assert [piece.token_id for piece in pieces if piece] == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_gets_none_and_its_neighbours_their_tokens(bad: float) -> None:
    logits = logits_of(3)
    rows = [row(temperature=1.0, top_p=0.9, seed=i) for i in range(3)]
    expected = sample(logits, rows)
    logits[1, 5] = bad
    assert sample(logits, rows) == [expected[0], None, expected[2]]


def test_tokens_that_the_model_forbids_are_never_picked() -> None:
    logits = torch.full((1, 10), -torch.inf)
    logits[0, 4] = 1.0
    assert all(
        piece is not None and piece.token_id == 4
        for seed in range(50)
        for piece in sample(logits, [row(seed=seed)])
    )
