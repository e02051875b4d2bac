"""Sampling against transformers' logits processors and against the exact distribution."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.engines.native.warpers import Fields, warped
from tests.unit.engines.native.warpers import logits_of as random_logits
from transformers.generation import logits_process as hf

from llmos.engines.native import device_distribution
from llmos.engines.native.sampler import (
    SampledRow,
    _sample_on_cpu,
    _sample_on_device,
    penalize,
    prompt_logprobs,
    sample,
)
from llmos.types import SamplingParams, TokenPiece

VOCAB = 600


def logits_of(rows: int, vocab: int = VOCAB, scale: float = 3.0) -> torch.Tensor:
    return random_logits(rows, vocab, scale)


def row(token_ids: tuple[int, ...] = (0,), num_prompt: int = 1, **fields: Any) -> SampledRow:
    return SampledRow(SamplingParams(**fields), 0, token_ids, num_prompt)


def penalized(scores: torch.Tensor, asked: SampledRow) -> torch.Tensor:
    changed = scores[0].clone()
    penalize(changed, asked)
    return changed[None]


@pytest.mark.parametrize("penalty", [0.7, 1.3, 2.0])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits = logits_of(1)
    ids = (5, 9, 5, 11)
    expected = hf.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([ids]), logits)
    got = penalized(logits, row(ids, 2, repetition_penalty=penalty))
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9, 10, 50])
def test_repeated_ngrams_are_forbidden_as_in_transformers(size: int) -> None:
    logits = logits_of(1)
    ids = (1, 2, 3, 1, 2, 4, 1, 2)
    expected = hf.NoRepeatNGramLogitsProcessor(size)(torch.tensor([ids]), logits.clone())
    got = penalized(logits, row(ids, 2, no_repeat_ngram_size=size))
    torch.testing.assert_close(got, expected)
    assert got.isinf().sum() == {1: 4, 2: 2, 3: 2}.get(size, 0)


def test_the_logit_bias_is_that_of_transformers() -> None:
    logits = logits_of(1)
    bias = {4: -100.0, 9: 3.5, 17: 0.25}
    expected = hf.SequenceBiasLogitsProcessor([[[token], value] for token, value in bias.items()])(
        torch.tensor([[1]]), logits
    )
    got = penalized(logits, row(logit_bias=tuple(bias.items())))
    torch.testing.assert_close(got, expected)


def test_presence_and_frequency_count_the_output_only() -> None:
    """OpenAI's formula: logit[j] - count[j] * frequency - (count[j] > 0) * presence."""
    logits = logits_of(1)
    output = (7, 7, 8)
    settings = {"presence_penalty": 0.5, "frequency_penalty": 0.25}
    expected = logits.clone()
    for token, count in Counter(output).items():
        expected[0, token] -= 0.5 + 0.25 * count
    torch.testing.assert_close(penalized(logits, row((9, 7, *output), 2, **settings)), expected)
    torch.testing.assert_close(penalized(logits, row((9, 7), 2, **settings)), logits)


def test_all_penalties_together_follow_the_order_of_transformers() -> None:
    logits = logits_of(1)
    ids = torch.tensor([[3, 4, 3]])
    expected = logits
    for processor in (
        hf.SequenceBiasLogitsProcessor([[[4], -2.0], [[3], 5.0]]),
        hf.RepetitionPenaltyLogitsProcessor(1.5),
        hf.NoRepeatNGramLogitsProcessor(2),
    ):
        expected = processor(ids, expected)
    expected = expected.clone()
    expected[0, 3] -= 0.5
    asked = row(
        (3, 4, 3),
        2,
        logit_bias=((4, -2.0), (3, 5.0)),
        repetition_penalty=1.5,
        no_repeat_ngram_size=2,
        presence_penalty=0.5,
    )
    torch.testing.assert_close(penalized(logits, asked), expected)
    greedy = row(
        (3, 4, 3),
        2,
        temperature=0,
        **{
            name: getattr(asked.params, name)
            for name in (
                "logit_bias",
                "repetition_penalty",
                "no_repeat_ngram_size",
                "presence_penalty",
            )
        },
    )
    [piece] = sample(logits, [greedy])
    assert piece is not None
    assert piece.token_id == expected.argmax().item()


def test_bans_that_leave_no_token_are_dropped() -> None:
    logits = logits_of(1, vocab=3)
    [piece] = sample(logits, [row((0, 1, 2), 3, temperature=0, no_repeat_ngram_size=1)])
    assert piece is not None
    assert piece.token_id == logits.argmax().item()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5},
        {"top_p": 0.8},
        {"top_k": 5},
        {"temperature": 2.0, "min_p": 0.1},
        {"repetition_penalty": 2.0, "logit_bias": ((3, 1.5), (7, -2.0)), "top_k": 20},
    ],
)
def test_sampled_tokens_follow_the_distribution(fields: Fields) -> None:
    """Pearson's chi-square statistic stays under its 99.9 % quantile."""
    count = 10_000
    logits = logits_of(1, vocab=30, scale=1.5)
    params = SamplingParams(seed=11, **fields)
    token_ids = np.full(count, 5)
    rows = [SampledRow(params, 0, token_ids[: n + 1], 1) for n in range(count)]  # type: ignore[arg-type]
    tokens = [piece.token_id for piece in sample(logits.expand(count, -1), rows) if piece]
    observed = torch.bincount(torch.tensor(tokens), minlength=30).double()
    expected = warped(logits.double(), fields, (5,))[0] * count
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


def test_prompt_logprobs_are_those_of_the_tokens_that_came() -> None:
    logits = logits_of(70)
    next_ids = list(range(70))
    pieces = prompt_logprobs(logits, next_ids, 2)
    exact = logits.double().log_softmax(dim=-1)
    top = exact.topk(2, dim=-1)
    assert [piece.token_id for piece in pieces] == next_ids
    for i, piece in enumerate(pieces):
        assert piece.logprob == pytest.approx(exact[i, i].item(), abs=1e-5)
        assert [token for token, _ in piece.top] == top.indices[i].tolist()
        assert [value for _, value in piece.top] == pytest.approx(top.values[i].tolist(), abs=1e-5)
    assert all(piece.top == () for piece in prompt_logprobs(logits, next_ids, 0))


def test_the_device_path_picks_what_the_cpu_picks() -> None:
    """Where no number falls between two ways to round."""
    logits = logits_of(24)
    rows = [
        row(
            (3, 4, *[i] * i),
            2,
            temperature=0.25 * (i % 7),
            top_p=1 - (i % 5) / 10,
            top_k=(i % 3) * 20,
            min_p=0.05 * (i % 2),
            repetition_penalty=1 + (i % 4) / 10,
            no_repeat_ngram_size=i % 4,
            seed=i,
        )
        for i in range(24)
    ]
    logits[7, 3] = float("nan")
    assert _sample_on_cpu(logits, rows) == _sample_on_device(logits, rows)
    assert device_distribution.pieces(logits[:4], [1, 2, 3, 4], [3, 2, 1, 0]) == [
        TokenPiece(
            piece.token_id,
            pytest.approx(piece.logprob, abs=1e-5),
            tuple((token, pytest.approx(value, abs=1e-5)) for token, value in piece.top),
        )
        for count, token in zip((3, 2, 1, 0), (1, 2, 3, 4), strict=True)
        for piece in prompt_logprobs(logits[token - 1 : token], [token], count)
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_taken_as_they_are(dtype: torch.dtype) -> None:
    logits = logits_of(3).to(dtype)
    rows = [row(temperature=0), row(seed=4), row(top_k=5, logprobs=1)]
    assert sample(logits, rows) == sample(logits.float(), rows)


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


@pytest.mark.parametrize("temperature", [9e-7, 1e-30, 1e-45, 1e-50, 1e-300])
@pytest.mark.parametrize("fields", [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}])
def test_a_temperature_next_to_nothing_is_greedy(
    temperature: float, fields: dict[str, Any]
) -> None:
    logits = logits_of(2)
    rows = [row(temperature=temperature, seed=3, **fields), row(temperature=1.0, seed=3)]
    for tokens in (_sample_on_cpu(logits, rows), _sample_on_device(logits, rows)):
        assert tokens[0] == int(logits[0].argmax())
        assert tokens[1] is not None
