"""Word vectors against the equations, written plainly one prediction at a time."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from llmos.data.encoding import Ragged
from llmos.training.recipe_sections import VectorsSection
from llmos.training.vectors import windows
from llmos.training.vectors.glove import Glove, cells
from llmos.training.vectors.windows import Text, chunks, generator, known_words, pairs
from llmos.training.vectors.word2vec import GROUP, Word2Vec

UNKNOWN, VOCAB, SIZE = 1, 12, 6


def text(lines: int, seed: int = 0) -> Ragged:
    random = np.random.default_rng(seed)
    return Ragged.of(random.integers(1, VOCAB, random.integers(0, 9)) for _ in range(lines))


def learner(kind: type, rows: Ragged, **changes: Any) -> Any:
    section = VectorsSection(**{"epochs": 2, "window": 3, "negative": 4, **changes})
    counts = np.bincount(rows.flat, minlength=VOCAB)
    counts[UNKNOWN] = 0
    return kind(section, rows, text(30, 9), counts, UNKNOWN, SIZE, 7, seed=3)


def test_words_are_near_in_their_line_and_unknown_ones_leave_no_gap() -> None:
    rows = Ragged.of([[2, 3, 1, 4], [], [5, 6], [7]])
    read = known_words(rows, (0, 4), UNKNOWN)
    places, behind = pairs(read, 2, 2)
    found = [(int(a), int(b)) for a, b in zip(places, places + behind, strict=True)]
    words = [(int(read.words[a]), int(read.words[b])) for a, b in found]
    assert words == [(2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3), (5, 6), (6, 5)]


def test_a_word_may_reach_less_far_than_another() -> None:
    read = Text(np.arange(5), np.zeros(5, dtype=np.int64))
    places, behind = pairs(read, np.array([1, 2, 0, 3, 1]), 3)
    near = {place: sorted((places + behind)[places == place].tolist()) for place in range(5)}
    assert near == {0: [1], 1: [0, 2, 3], 2: [], 3: [0, 1, 2, 4], 4: [3]}
    for count in (0, 1):
        assert not len(pairs(Text(read.words[:count], read.lines[:count]), 3, 3)[0])


def test_chunks_hold_every_line_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "CHUNK_WORDS", 10)
    rows = text(100)
    found = chunks(rows)
    assert found[0][0] == 0 and found[-1][1] == 100
    assert all(one[1] == other[0] for one, other in pairwise(found)) and len(found) > 20


@pytest.mark.parametrize("negative", [4, 20])
@pytest.mark.parametrize("method", ["skip_gram", "cbow"])
def test_a_step_is_the_gradient_of_the_paper(method: str, negative: int) -> None:
    """Of log s(u_o v_c) + the mean over negatives, as many times as asked for, of log s(-u_n v_c);
    each prediction of its own."""
    own = learner(Word2Vec, text(20), method=method, negative=negative)
    torch.manual_seed(0)
    own._inputs.normal_(), own._outputs.normal_()
    read = known_words(text(12, 4), (0, 12), UNKNOWN)
    batch = own._windows(read, generator(1, 2, 3))
    assert len(batch.words) % GROUP == 0 and len(batch.words) > len(read.words) > 2 * GROUP
    inputs = own._inputs.clone().requires_grad_(True)
    outputs = own._outputs.clone().requires_grad_(True)
    objective, num_predictions = torch.zeros(()), 0
    for place, word in enumerate(read.words):
        near = batch.near[batch.starts[place] : batch.starts[place + 1]]
        negatives = outputs[batch.negatives[place // GROUP]]
        predictions = [(inputs[word], outputs[other]) for other in near]
        if method == "cbow":
            # The authors' program moves each word by all of the mean's gradient.
            mean = inputs[near]
            mean = mean.mean(0).detach() + mean.sum(0) - mean.sum(0).detach()
            predictions = [(mean, outputs[word])] if len(near) else []
        for predictor, predicted in predictions:
            mistaken = torch.log(torch.sigmoid(-negatives @ predictor)).mean()
            objective = objective + torch.log(torch.sigmoid(predicted @ predictor))
            objective = objective + negative * mistaken
            num_predictions += 1
    loss = -objective.item() / num_predictions
    objective.backward()
    assert inputs.grad is not None and outputs.grad is not None
    expected = inputs.detach() + 0.1 * inputs.grad, outputs.detach() + 0.1 * outputs.grad
    before = own._inputs.clone()
    assert own._learn(batch, None).loss() == pytest.approx(loss)
    assert torch.equal(own._inputs, before), "asked for the loss alone"
    own._learn(batch, 0.1)
    assert torch.allclose(own._inputs, expected[0], atol=1e-4)
    assert torch.allclose(own._outputs, expected[1], atol=1e-4)


@pytest.mark.parametrize("method", ["skip_gram", "cbow"])
def test_the_windows_of_a_few_words_are_those_of_all(method: str) -> None:
    own = learner(Word2Vec, text(20), method=method)
    own._outputs.normal_()
    read = known_words(text(20, 4), (0, 20), UNKNOWN)
    whole = own._windows(read, generator(1, 2, 3))
    num_groups = len(whole.negatives)
    assert num_groups > 3
    parts = [whole.groups(first, first + 2) for first in range(0, num_groups, 2)]
    scores = [own._learn(part, None) for part in parts]
    together = own._learn(whole, None)
    for name in ("found", "mistaken", "weights"):
        pieces = torch.cat([getattr(one, name) for one in scores])
        assert torch.allclose(pieces, getattr(together, name), atol=1e-6)


def test_words_that_meet_are_counted_by_nearness_both_ways() -> None:
    rows = Ragged.of([[2, 3, 1, 4], [3, 2], [5]])
    keys, met = cells(rows, VOCAB, 2, UNKNOWN)
    found = {divmod(int(key), VOCAB): value for key, value in zip(keys, met, strict=True)}
    half = {(2, 3): 2.0, (3, 4): 1.0, (2, 4): 0.5}
    assert found == half | {(b, a): value for (a, b), value in half.items()}


def test_a_step_of_glove_is_adagrad_on_its_loss() -> None:
    own = learner(Glove, text(200), method="glove", learning_rate=0.05, x_max=10.0)
    words, around = own._table("words").clone(), own._table("contexts").clone()
    loss = own._learn(np.array([2 * VOCAB + 3]), np.array([4.0]))
    w, c, b, b2 = words[2, :-1], around[3, :-1], words[2, -1], around[3, -1]
    error = float(w @ c + b + b2) - math.log(4)
    weight = (4 / 10) ** 0.75
    assert loss == pytest.approx(weight * error**2 / 2, rel=1e-5)
    assert torch.allclose(own._table("words")[2, :-1], w - 0.05 * weight * error * c, atol=1e-7)
    assert torch.allclose(own._table("words_squares")[2, :-1], 1 + (weight * error * c) ** 2)
    assert float(own._table("contexts")[3, -1]) == pytest.approx(float(b2) - 0.05 * weight * error)


@pytest.mark.parametrize("method", ["skip_gram", "cbow", "glove"])
def test_learning_goes_down_and_depends_on_the_step_alone(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "CHUNK_WORDS", 60)
    rows = Ragged.of([[2, 3, 4], [5, 6, 7], [8, 9, 10]] * 60)
    kind = Glove if method == "glove" else Word2Vec
    options = {"method": method, "learning_rate": 0.2, "epochs": 6, "subsample": 0.0}
    whole, other = learner(kind, rows, **options), learner(kind, rows, **options)
    losses = [whole.step(number) for number in range(whole.num_steps)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])
    half = whole.num_steps // 2
    for number in range(half):
        other.step(number)
    resumed = learner(kind, rows, **options)
    resumed.module.load_state_dict(other.module.state_dict())
    for number in range(half, whole.num_steps):
        resumed.step(number)
    assert torch.equal(resumed.vectors(), whole.vectors())


def test_batches_are_smaller_where_a_word_is_frequent_and_the_rate_is_high() -> None:
    """So that the words of the starter text do not go astray (0.05 did, in batches of 512)."""
    counts = np.full(400, 50)
    counts[:2], counts[2] = 0, 300
    rows = Ragged.of([range(2, 400)])

    def groups(rate: float, batch_words: int) -> int:
        section = VectorsSection(learning_rate=rate, subsample=0.0)
        own = Word2Vec(section, rows, rows, counts, UNKNOWN, SIZE, batch_words, seed=3)
        return own._batch_groups

    share = 300 / counts.sum()
    assert [groups(0.025, words) for words in (1, 33, 512)] == [1, 3, 32]
    assert groups(0.05, 512) == int(1.5 / (0.05 * share * 6) / GROUP) < 32
    assert groups(5.0, 512) == 1


def test_frequent_words_are_thinned_out() -> None:
    rows = Ragged.of([[2] * 999 + [3]] * 10)
    kept = learner(Word2Vec, rows, subsample=1e-2)._kept
    share = 0.999 / 1e-2
    assert kept[2] == pytest.approx((math.sqrt(share) + 1) / share)
    assert kept[3] == 1.0
