"""The chain of labels against every labelling counted one by one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from llmos.models.chain import Chain, States, by_label, gold_states, states_of

LABELS = ("O", "B-A", "I-A", "B-B", "I-B")


def chain_of(lengths: list[int], states: States, seed: int = 0) -> Chain:
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 2

    count = len(states)
    return Chain.of(
        drawn(len(lengths), max(lengths), count),
        drawn(count, count),
        drawn(count),
        drawn(count),
        torch.tensor(lengths),
        states,
    )


def possible(length: int, states: States) -> list[tuple[int, ...]]:
    """Every path of states that labels can be written in."""
    return [
        path
        for path in product(range(len(states)), repeat=length)
        if states.may_begin[path[0]]
        and states.may_end[path[-1]]
        and all(states.allowed[one, two] for one, two in pairwise(path))
    ]


def scored(chain: Chain, row: int, path: tuple[int, ...]) -> float:
    """The score of one path, added up by hand."""
    total = float(chain.starts[path[0]] + chain.ends[path[-1]])
    total += sum(float(chain.emissions[row, at, state]) for at, state in enumerate(path))
    return total + sum(float(chain.transitions[a, b]) for a, b in pairwise(path))


@pytest.mark.parametrize("lengths", [[1, 3], [4, 2, 4]])
def test_all_labellings_are_summed_and_the_best_is_found(lengths: list[int]) -> None:
    states = states_of(LABELS)
    chain = chain_of(lengths, states)
    partition, best = chain.log_partition(), chain.best_scores()
    for row, length in enumerate(lengths):
        paths = possible(length, states)
        scores = torch.tensor([scored(chain, row, path) for path in paths], dtype=torch.float64)
        assert float(partition[row]) == pytest.approx(float(scores.logsumexp(0)), abs=1e-9)
        viterbi = paths[int(scores.argmax())]
        assert tuple(best[row, :length].argmax(-1).tolist()) == viterbi
        for place, state in product(range(length), range(len(states))):
            through = [s for path, s in zip(paths, scores, strict=True) if path[place] == state]
            if through:
                told = float(best[row, place, state])
                assert told == pytest.approx(float(max(through)), abs=1e-9)


def test_the_score_of_a_labelling_is_that_of_its_path() -> None:
    states = states_of(LABELS)
    chain = chain_of([3, 2], states)
    path = torch.tensor([[1, 4, 0], [0, 0, 0]])
    expected = [scored(chain, 0, (1, 4, 0)), scored(chain, 1, (0, 0))]
    assert chain.score(path).tolist() == pytest.approx(expected)


def test_probabilities_of_all_labellings_sum_to_one() -> None:
    states = states_of(LABELS)
    chain = chain_of([3], states, seed=4)
    partition = chain.log_partition()
    paths = torch.tensor(possible(3, states))
    every = [float((chain.score(path[None]) - partition).exp()) for path in paths]
    assert sum(every) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["B-A", "I-A", "I-A", "O"], ["B", "M", "E", "O"]),
        (["B-A", "B-A", "I-B", "I-B"], ["S", "S", "B", "E"]),
        (["I-A", "O", "B-B", "I-A"], ["S", "O", "S", "S"]),
    ],
)
def test_labels_become_states_that_can_follow_each_other(
    labels: list[str], told: list[str]
) -> None:
    states = states_of(LABELS)
    given = torch.tensor([[LABELS.index(label) for label in labels]])
    path = gold_states(given, torch.tensor([4]), states)[0].tolist()
    names = [_name(states, state) for state in path]
    assert names == told
    assert tuple(path) in possible(4, states)


def _name(states: States, state: int) -> str:
    if LABELS[int(states.label_of[state])] == "O":
        return "O"
    begins, ends = bool(states.may_begin[state]), bool(states.may_end[state])
    return {(True, True): "S", (True, False): "B", (False, False): "M", (False, True): "E"}[
        begins, ends
    ]


def test_a_label_has_the_best_of_its_states() -> None:
    states = states_of(LABELS)
    scores = torch.arange(len(states), dtype=torch.float64)[None]
    told = by_label(scores, states, len(LABELS))[0]
    for number in range(len(LABELS)):
        own = [float(at) for at, label in enumerate(states.label_of.tolist()) if label == number]
        assert float(told[number]) == max(own)


def test_labels_that_are_no_bio_may_follow_each_other_anyhow() -> None:
    states = states_of(("NOUN", "VERB", "X"))
    assert len(states) == 3 and bool(states.allowed.all())
