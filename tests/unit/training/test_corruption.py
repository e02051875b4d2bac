"""Spans are taken out as the paper has it, anew each time, and always the same again."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.unit.training.tiny import make_recipe
from transformers import T5Config, T5ForConditionalGeneration

from llmos.data.encoding import Ragged
from llmos.training.corruption import Corrupted, CorruptedTexts, drawn_spans, sentinels_of
from llmos.training.encoder import IGNORE
from llmos.training.objectives import Batch, SequencePairs
from llmos.training.recipe import parse
from llmos.training.recipe_sections import SpansSection
from llmos.training.sampling import random_bits

PAD, END, FIRST, VOCABULARY = 0, 1, 20, 1000
SENTINELS = tuple(range(2, FIRST))


def columns(rows: int, length: int) -> dict[str, Ragged]:
    words = np.random.default_rng(0).integers(FIRST, VOCABULARY, (rows, length))
    ids = [[*row, END] for row in words]
    return {"input_ids": Ragged.of(ids), "is_text": Ragged.of([[1] * length + [0] for _ in ids])}


def objective(seed: int = 0) -> CorruptedTexts:
    return CorruptedTexts(SpansSection(), SENTINELS, SequencePairs(PAD, PAD), END, seed)


def rows_of(batch: Batch) -> list[tuple[list[int], list[int]]]:
    """What is read and what is to be written, without padding."""
    sources = zip(batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True)
    return [
        (ids[mask == 1].tolist(), labels[labels != IGNORE].tolist())
        for (ids, mask), labels in zip(sources, batch.labels, strict=True)
    ]


def spans_of(target: list[int]) -> list[list[int]]:
    """The spans of a target, once its sentinels are known to be those that come first."""
    assert target[-1] == END
    places = [place for place, token in enumerate(target) if token in SENTINELS]
    assert [target[place] for place in places] == list(SENTINELS[: len(places)])
    assert places[0] == 0 and places[-1] == len(target) - 2, "one more ends the last span"
    return [target[first + 1 : last] for first, last in itertools.pairwise(places)]


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8, 13, 60])
def test_what_is_read_and_what_is_written_make_the_text(length: int) -> None:
    given = columns(300, length)
    batch = objective().batch(given, np.arange(300))
    for (source, target), row in zip(rows_of(batch), range(300), strict=True):
        spans = spans_of(target)
        assert all(spans) and len(spans) >= 1
        places = [place for place, token in enumerate(source) if token in SENTINELS]
        assert all(b - a > 1 for a, b in itertools.pairwise(places)), "never together"
        whole: list[int] = []
        for token in source:
            whole += spans[token - SENTINELS[0]] if token in SENTINELS else [token]
        assert whole == given["input_ids"].row(row).tolist()
        assert len(source) <= length + 1 and len(target) <= max(length + 1, 4)


@pytest.mark.parametrize(("length", "mean_length"), [(8, None), (20, 3.0), (100, 3.0)])
def test_15_percent_are_taken_out_in_spans_of_3(length: int, mean_length: float | None) -> None:
    given = columns(2000, length)
    found = [spans_of(target) for _, target in rows_of(objective().batch(given, np.arange(2000)))]
    num_out = sum(len(span) for spans in found for span in spans)
    assert num_out / (2000 * length) == pytest.approx(0.15, rel=0.03)
    num_spans = sum(map(len, found))
    if mean_length is None:  # there is one of 1.2 tokens: what 15% of 8 are
        assert num_spans == 2000
    else:
        assert num_out / num_spans == pytest.approx(mean_length, rel=0.05)


def test_spans_may_be_anywhere() -> None:
    taken = np.zeros(30)
    for row in range(4000):
        bits = random_bits(0, row, 6, 32)
        for start, length in drawn_spans(bits, 30, SpansSection(), 9):
            taken[start : start + length] += 1
    assert taken.mean() / 4000 == pytest.approx(0.15, rel=0.03)
    assert taken[5:25].min() > 0.8 * taken.mean()
    assert taken[[0, -1]].min() > 0.3 * taken.mean(), "both ends, too"


def test_spans_are_a_pure_function_of_seed_step_and_row() -> None:
    given = columns(20, 30)
    sampler = objective().sampler(given, 20, 0)
    first, again = (rows_of(objective().batch(given, sampler.rows(7))) for _ in range(2))
    assert first == again
    by_row = dict(zip((sampler.rows(7) % 20).tolist(), first, strict=True))
    for other, rows in (
        (objective(), sampler.rows(8)),
        (objective(seed=1), sampler.rows(7)),
        (objective(), objective().all_rows(given)),
    ):
        found = dict(zip((rows % 20).tolist(), rows_of(other.batch(given, rows)), strict=True))
        assert any(found[row] != by_row[row] for row in found)
    both = [rows_of(objective().batch(given, np.array(rows))) for rows in ([3], [5, 3])]
    assert both[0][0] == both[1][1], "batch-mates change nothing"


@pytest.mark.parametrize("section", [{}, {"share": 0.5, "mean_length": 1.0}, {"share": 0.02}])
@pytest.mark.parametrize("max_tokens", [4, 17, 96])
def test_a_tokenizer_has_the_sentinels_that_its_longest_text_can_need(
    max_tokens: int, section: dict[str, float]
) -> None:
    recipe = parse(make_recipe("spans", max_tokens=max_tokens, spans=section))
    assert recipe.spans is not None
    names = sentinels_of(recipe)
    needed = 0
    for row in range(500):
        bits = random_bits(0, row, 6, max_tokens + 1)
        needed = max(needed, len(drawn_spans(bits, max_tokens - 1, recipe.spans, 10**6)))
    assert needed < len(names) <= 2 * needed + 2


def test_accuracy_is_that_of_the_text_s_own_tokens() -> None:
    torch.manual_seed(0)
    config = T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    model = T5ForConditionalGeneration(config).eval()
    batch = objective().batch(columns(40, 30), np.arange(40))
    assert isinstance(batch, Corrupted)
    num_text = sum(len(span) for _, target in rows_of(batch) for span in spans_of(target))
    with torch.no_grad():
        measured = batch.measures(model)
        best = model(**batch.inputs).logits.argmax(-1)
    assert measured["accuracy"][1] == num_text < measured["loss"][1] == batch.num_labels
    is_own = torch.isin(batch.labels, torch.arange(FIRST, VOCABULARY))
    assert measured["accuracy"][0] == int(((best == batch.labels) & is_own).sum())
