"""A pipeline's steps laid out as a graph from left to right.

A step stands in the column after the last one it waits for (layers by longest path); an edge that
passes a column bends there, in a row of its own. `drawing` makes pictures of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median_low

SWEEPS = 4
"""How often the columns are sorted to have fewer edges cross: more change nothing one would see."""


@dataclass(frozen=True, slots=True)
class Node:
    """A step in its column; ``name`` is None for a bend of an edge that passes through."""

    name: str | None
    column: int
    row: int


@dataclass(frozen=True, slots=True)
class Layout:
    """Nodes by column, from top to bottom, and the edges between neighbouring columns."""

    columns: tuple[tuple[Node, ...], ...]
    edges: tuple[tuple[Node, Node], ...]

    @property
    def num_rows(self) -> int:
        """Rows, the empty ones included."""
        return max((node.row for column in self.columns for node in column), default=-1) + 1


_Key = tuple[str, ...]
"""A step ``(name,)``, or the bend in a column of one edge ``(from, to, column)``."""


def layout(awaited: Mapping[str, Sequence[str]]) -> Layout:
    """Return where to draw each step.

    Args:
        awaited: the steps that each one waits for, which all come before it.
    """
    column: dict[str, int] = {}
    for name, before in awaited.items():
        column[name] = 1 + max((column[other] for other in before), default=-1)
    columns: list[list[_Key]] = [[] for _ in range(1 + max(column.values(), default=-1))]
    edges: list[tuple[_Key, _Key]] = []
    for name, before in awaited.items():
        columns[column[name]].append((name,))
        for other in before:
            bends = [(other, name, str(c)) for c in range(column[other] + 1, column[name])]
            for c, bend in enumerate(bends, column[other] + 1):
                columns[c].append(bend)
            way: list[_Key] = [(other,), *bends, (name,)]
            edges += itertools.pairwise(way)
    _untangle(columns, edges)
    return _placed(columns, edges)


def _untangle(columns: list[list[_Key]], edges: Sequence[tuple[_Key, _Key]]) -> None:
    """Sort each column by where its neighbours stand on average, forwards and backwards."""
    before, after = _neighbours(edges)
    for sweep in range(SWEEPS):
        if sweep % 2 == 0:
            for c in range(1, len(columns)):
                columns[c] = _sorted_by(columns[c], columns[c - 1], before)
        else:
            for c in range(len(columns) - 2, -1, -1):
                columns[c] = _sorted_by(columns[c], columns[c + 1], after)


def _sorted_by(
    column: list[_Key], beside: list[_Key], neighbours: Mapping[_Key, list[_Key]]
) -> list[_Key]:
    """Return a column sorted by where each node's neighbours stand in the one beside it."""
    at = {key: place for place, key in enumerate(beside)}
    own = {key: place for place, key in enumerate(column)}
    wanted = {
        key: mean(at[other] for other in neighbours[key]) if key in neighbours else own[key]
        for key in column
    }
    return sorted(column, key=lambda key: wanted[key])


def _placed(columns: list[list[_Key]], edges: Sequence[tuple[_Key, _Key]]) -> Layout:
    """Give each node a row: that of the middle one of those before it, if it is free."""
    before, _ = _neighbours(edges)
    nodes: dict[_Key, Node] = {}
    for c, keys in enumerate(columns):
        free = 0
        for key in keys:
            rows = [nodes[other].row for other in before.get(key, ())]
            row = max(free, median_low(rows) if rows else 0)
            nodes[key] = Node(key[0] if len(key) == 1 else None, c, row)
            free = row + 1
    placed = tuple(tuple(nodes[key] for key in keys) for keys in columns)
    return Layout(placed, tuple((nodes[one], nodes[other]) for one, other in edges))


def _neighbours(
    edges: Sequence[tuple[_Key, _Key]],
) -> tuple[dict[_Key, list[_Key]], dict[_Key, list[_Key]]]:
    before: dict[_Key, list[_Key]] = {}
    after: dict[_Key, list[_Key]] = {}
    for one, other in edges:
        before.setdefault(other, []).append(one)
        after.setdefault(one, []).append(other)
    return before, after
