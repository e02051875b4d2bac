"""The best tree over the words of a sentence, of scores of all arcs (Chu and Liu, 1965; Edmonds,
1967; McDonald et al., 2005, Non-projective Dependency Parsing using Spanning Tree Algorithms)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
ROOT = 0


def best_tree(scores: npt.NDArray[Any]) -> list[int]:
    """Return the head of each word in the tree whose arcs add up to the highest score, of those
    with one word below the root.

    Args:
        scores: finite, of the arc to word ``i + 1`` from word ``j``: ``[words, 1 + words]``; word 0
            is the root. A word is never its own head, whatever it is scored.
    """
    count = len(scores)
    arcs = np.full((count + 1, count + 1), -np.inf)
    arcs[1:] = scores
    np.fill_diagonal(arcs, -np.inf)
    greedy = arcs[1:].argmax(1)
    if (greedy == ROOT).sum() == 1 and not _cycle(np.concatenate([[ROOT], greedy])).size:
        return [int(head) for head in greedy]
    # Every tree has an arc from the root. With a price on each that nothing makes up for, the best
    # tree has one, and of the trees with one it is the best still.
    finite = arcs[np.isfinite(arcs)]
    arcs[1:, ROOT] -= 1.0 + count * float(finite.max() - finite.min()) if finite.size else 0.0
    return [int(head) for head in _heads(arcs)[1:]]


@dataclass(frozen=True, slots=True)
class _Contraction:
    """A cycle that became one node.

    Attributes:
        nodes: of the cycle; the first stands for all.
        heads: of these.
        enters: of each other node as a head, the node of the cycle that it would break into.
        leaves: of each other node as a dependent, the node of the cycle that is its head.
    """

    nodes: Places
    heads: Places
    enters: Places
    leaves: Places


def _heads(arcs: Scores) -> Places:
    """Return the heads of the best tree over ``arcs[dependent, head]``, which it changes."""
    alive = np.arange(len(arcs))
    done: list[_Contraction] = []
    while True:
        heads = np.zeros(len(arcs), np.int64)
        heads[alive[1:]] = alive[arcs[np.ix_(alive[1:], alive)].argmax(1)]
        nodes = _cycle(heads, alive)
        if not nodes.size:
            break
        done.append(_contracted(arcs, heads, nodes))
        alive = alive[~np.isin(alive, nodes[1:])]
    for one in reversed(done):
        head = heads[one.nodes[0]]
        was_below = np.isin(heads, one.nodes[:1])
        was_below[one.nodes] = False
        heads[was_below] = one.leaves[was_below]
        heads[one.nodes] = one.heads
        heads[one.enters[head]] = head
    return heads


def _contracted(arcs: Scores, heads: Places, nodes: Places) -> _Contraction:
    """Make the first node of a cycle stand for all of it, in what arcs to and from it score."""
    own = arcs[nodes, heads[nodes]]
    into = arcs[nodes] - own[:, None]
    out_of = arcs[:, nodes]
    enters, leaves = nodes[into.argmax(0)], nodes[out_of.argmax(1)]
    first, others = nodes[0], nodes[1:]
    arcs[first], arcs[:, first] = into.max(0), out_of.max(1)
    arcs[others], arcs[:, others] = -np.inf, -np.inf
    arcs[first, first] = -np.inf
    return _Contraction(nodes, heads[nodes].copy(), enters, leaves)


def _cycle(heads: Places, alive: Places | None = None) -> Places:
    """Return the nodes of a cycle, none where all lead to the root."""
    seen = np.zeros(len(heads), np.int64)
    seen[ROOT] = -1
    for mark, start in enumerate(range(1, len(heads)) if alive is None else alive[1:], 1):
        node = start
        while seen[node] == 0:
            seen[node] = mark
            node = heads[node]
        if seen[node] == mark:
            found = [node]
            while (node := heads[node]) != found[0]:
                found.append(node)
            return np.array(found)
    return np.zeros(0, np.int64)
