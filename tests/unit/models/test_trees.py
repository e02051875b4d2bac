from __future__ import annotations

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.models.trees import best_tree


def is_tree(heads: list[int]) -> bool:
    """Whether all words lead to the root, and one word is below it."""
    for number in range(1, len(heads) + 1):
        for _ in heads:
            number = heads[number - 1] if number else 0
        if number:
            return False
    return heads.count(0) == 1


def total(scores: np.ndarray, heads: list[int]) -> float:
    return float(scores[np.arange(len(heads)), heads].sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 3.0, 50.0]))
def test_no_tree_is_better(count: int, seed: int, scale: float) -> None:
    scores = np.random.default_rng(seed).normal(size=(count, count + 1)) * scale
    scores[np.arange(count), np.arange(1, count + 1)] = 1e3  # of a word as its own head
    heads = best_tree(scores)
    assert is_tree(heads)
    assert all(head != number for number, head in enumerate(heads, 1))
    assert total(scores, heads) == pytest.approx(best_rooted(scores), abs=1e-6)


def best_rooted(scores: np.ndarray) -> float:
    """Return what the best tree scores, by networkx: of each word as the one below the root."""
    count = len(scores)
    found = []
    for top in range(1, count + 1):
        graph = networkx.DiGraph()
        graph.add_node(top)
        for word in range(1, count + 1):
            for head in range(1, count + 1):
                if word not in (head, top):
                    graph.add_edge(head, word, weight=scores[word - 1, head])
        tree = networkx.maximum_spanning_arborescence(graph)
        weight = sum(data["weight"] for *_, data in tree.edges(data=True))
        found.append(weight + scores[top - 1, 0])
    return float(max(found))


def test_the_best_heads_are_taken_where_they_make_a_tree() -> None:
    scores = np.full((3, 4), -5.0)
    scores[0, 2] = scores[1, 0] = scores[2, 2] = 0.0
    assert best_tree(scores) == [2, 0, 2]


def test_one_word_is_below_the_root_though_all_would_be() -> None:
    scores = np.zeros((3, 4))
    scores[:, 0] = [7.0, 9.0, 8.0]
    heads = best_tree(scores)
    assert heads[1] == 0
    assert is_tree(heads)


def test_a_circle_of_all_words_is_broken_where_it_costs_least() -> None:
    scores = np.full((4, 5), -100.0)
    for word, head in enumerate([2, 3, 4, 1]):
        scores[word, head] = 0.0
    scores[:, 0] = [-3.0, -2.0, -1.0, -4.0]
    assert best_tree(scores) == [2, 3, 0, 1]


def test_a_long_chain_of_circles_is_no_depth() -> None:
    count = 400
    scores = np.full((count, count + 1), -9.0)
    for word in range(1, count, 2):  # pairs that point at each other
        scores[word - 1, word + 1] = scores[word, word] = 1.0
    assert is_tree(best_tree(scores))
