"""Pictures of a pipeline: for a terminal, as SVG, and as Mermaid for Markdown pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from llmos.apps.graph import Layout, Node, layout

MARKS = {
    "waiting": "·",
    "queued": "○",
    "running": "●",
    "succeeded": "✓",
    "failed": "✗",
    "cancelled": "■",
    "skipped": "-",
}
COLORS = {
    "waiting": ("#f6f8fa", "#8c959f"),
    "queued": ("#fff8c5", "#bf8700"),
    "running": ("#ddf4ff", "#0969da"),
    "succeeded": ("#dafbe1", "#1a7f37"),
    "failed": ("#ffebe9", "#cf222e"),
    "cancelled": ("#eaeef2", "#57606a"),
    "skipped": ("#f6f8fa", "#8c959f"),
}
"""Fill and edge of a step's box, by its state."""


@dataclass(frozen=True, slots=True)
class Box:
    """What is drawn for one step; ``after`` names boxes that stand before it in the sequence."""

    name: str
    after: tuple[str, ...]
    title: str
    note: str
    state: str


# -- for a terminal --------------------------------------------------------------------------------

_LEFT, _RIGHT, _UP, _DOWN = 1, 2, 4, 8
_LINES = {
    _LEFT: "─",
    _RIGHT: "─",
    _LEFT | _RIGHT: "─",
    _UP | _DOWN: "│",
    _LEFT | _DOWN: "┐",
    _LEFT | _UP: "┘",
    _RIGHT | _DOWN: "┌",
    _RIGHT | _UP: "└",
    _LEFT | _RIGHT | _DOWN: "┬",
    _LEFT | _RIGHT | _UP: "┴",
    _UP | _DOWN | _RIGHT: "├",
    _UP | _DOWN | _LEFT: "┤",
    _LEFT | _RIGHT | _UP | _DOWN: "┼",
}


def text(boxes: Sequence[Box]) -> list[str]:
    """Return the graph as lines of text, one for each row of steps."""
    placed = layout({box.name: box.after for box in boxes})
    labels = {box.name: f"{MARKS.get(box.state, ' ')} {box.title}" for box in boxes}
    canvas = _Canvas(placed.num_rows)
    x = 0
    for column, nodes in enumerate(placed.columns):
        width = max(len(labels.get(node.name or "", "")) for node in nodes)
        leaving = [edge for edge in placed.edges if edge[0].column == column]
        ends: dict[Node, int] = {}
        for node in nodes:
            if node.name is None:
                canvas.across(node.row, x - 1, x + width)
                ends[node] = x + width
            else:
                canvas.write(node.row, x, labels[node.name])
                ends[node] = x + len(labels[node.name]) + 1
        x = _connect(canvas, leaving, ends, x + width + 2)
    return canvas.lines()


def _connect(
    canvas: _Canvas, edges: Sequence[tuple[Node, Node]], ends: Mapping[Node, int], x: int
) -> int:
    """Draw the edges out of one column, from ``x`` on; return where the next column begins."""
    tracks = _tracks(edges)
    start = x + 2 * len(tracks) + 2
    for source, target in edges:
        track = x + 2 * tracks[source] if source in tracks else x
        canvas.across(source.row, ends[source], track)
        canvas.down(track, source.row, target.row)
        canvas.across(target.row, track, start - 2)
    return start


def _tracks(edges: Sequence[tuple[Node, Node]]) -> dict[Node, int]:
    """Return the upright line, from left to right, of each node with edges to other rows.

    Where lines enter a row from elsewhere, the node that stands in it turns off before they do, so
    that none seems to come from another. Only edges that swap rows may leave no such order.
    """
    turning = sorted(
        {one for one, other in edges if one.row != other.row}, key=lambda node: node.row
    )
    at_row = {node.row: node for node in turning}
    must_follow: dict[Node, set[Node]] = {node: set() for node in turning}
    for source, target in edges:
        in_row = at_row.get(target.row)
        if source in must_follow and in_row is not None and in_row != source:
            must_follow[source].add(in_row)
    tracks: dict[Node, int] = {}
    while len(tracks) < len(turning):
        left = [node for node in turning if node not in tracks]
        ready = [node for node in left if must_follow[node] <= tracks.keys()]
        tracks[(ready or left)[0]] = len(tracks)
    return tracks


class _Canvas:
    """Lines of characters; strokes that meet become corners and crossings."""

    def __init__(self, num_rows: int) -> None:
        self._texts: dict[tuple[int, int], str] = {}
        self._strokes: dict[tuple[int, int], int] = {}
        self._num_rows = num_rows

    def write(self, row: int, x: int, words: str) -> None:
        for place, character in enumerate(words, x):
            self._texts[row, place] = character

    def across(self, row: int, first: int, last: int) -> None:
        for x in range(first, last + 1):
            self._stroke(row, x, (_LEFT if x > first else 0) | (_RIGHT if x < last else 0))

    def down(self, x: int, one: int, other: int) -> None:
        top, bottom = sorted((one, other))
        for row in range(top, bottom + 1):
            self._stroke(row, x, (_UP if row > top else 0) | (_DOWN if row < bottom else 0))

    def lines(self) -> list[str]:
        drawn = {at: _LINES.get(bits, " ") for at, bits in self._strokes.items()} | self._texts
        rows: list[dict[int, str]] = [{} for _ in range(self._num_rows)]
        for (row, x), character in drawn.items():
            rows[row][x] = character
        return [
            "".join(row.get(x, " ") for x in range(max(row, default=-1) + 1)).rstrip()
            for row in rows
        ]

    def _stroke(self, row: int, x: int, bits: int) -> None:
        self._strokes[row, x] = self._strokes.get((row, x), 0) | bits


# -- as SVG ----------------------------------------------------------------------------------------

_CHARACTER_PX = 7.8
_BOX_HEIGHT_PX, _ROW_PX, _GAP_PX, _MARGIN_PX = 44, 64, 56, 20
_STYLE = (
    "text{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;fill:#1f2328}"
    ".note{font-size:11px;fill:#57606a}.edge{fill:none;stroke:#8c959f;stroke-width:1.5}"
)


def svg(boxes: Sequence[Box], title: str) -> str:
    """Return the graph as an SVG picture, complete in itself."""
    placed = layout({box.name: box.after for box in boxes})
    by_name = {box.name: box for box in boxes}
    lefts, rights = _columns(placed, by_name)
    parts = [
        _edge(lefts, rights, one, other, into_box=other.name is not None)
        for one, other in placed.edges
    ]
    for column in placed.columns:
        for node in column:
            left, right = lefts[node.column], rights[node.column]
            if node.name is not None:
                parts.append(_box(by_name[node.name], left, right, _middle(node)))
            else:
                y = _middle(node)
                parts.append(f'<path class="edge" d="M{left:g} {y:g}H{right:g}"/>')
    width = max(rights, default=0) + _MARGIN_PX
    height = placed.num_rows * _ROW_PX + 2 * _MARGIN_PX
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        '<marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#8c959f"/></marker>\n'
        '<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _columns(placed: Layout, boxes: Mapping[str, Box]) -> tuple[list[float], list[float]]:
    """Return the left and the right of each column's boxes, in pixels."""
    lefts, rights = [], []
    x = float(_MARGIN_PX)
    for column in placed.columns:
        named = [boxes[node.name] for node in column if node.name is not None]
        characters = max(len(words) for box in named for words in (f"  {box.title}", box.note))
        lefts.append(x)
        rights.append(x + characters * _CHARACTER_PX + 2 * 12)
        x = rights[-1] + _GAP_PX
    return lefts, rights


def _middle(node: Node) -> float:
    return _MARGIN_PX + node.row * _ROW_PX + _ROW_PX / 2


def _edge(
    lefts: Sequence[float], rights: Sequence[float], one: Node, other: Node, *, into_box: bool
) -> str:
    x1, y1, x2, y2 = rights[one.column], _middle(one), lefts[other.column], _middle(other)
    bend = (x1 + x2) / 2
    tip = ' marker-end="url(#tip)"' if into_box else ""
    curve = f"M{x1:g} {y1:g}C{bend:g} {y1:g} {bend:g} {y2:g} {x2:g} {y2:g}"
    return f'<path class="edge" d="{curve}"{tip}/>'


def _box(box: Box, left: float, right: float, middle: float) -> str:
    fill, edge = COLORS.get(box.state, COLORS["waiting"])
    top = middle - _BOX_HEIGHT_PX / 2
    mark = MARKS.get(box.state, "")
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{_BOX_HEIGHT_PX}" '
        f'rx="6" fill="{fill}" stroke="{edge}"/>'
        f'<text x="{left + 12:g}" y="{middle - 3:g}">{mark} {escape(box.title)}</text>'
        f'<text class="note" x="{left + 12:g}" y="{middle + 13:g}">{escape(box.note)}</text>'
    )


# -- as Mermaid ------------------------------------------------------------------------------------


def mermaid(boxes: Sequence[Box]) -> str:
    """Return the graph in Mermaid, which GitHub and others draw in Markdown."""
    ids = {box.name: f"s{number}" for number, box in enumerate(boxes)}
    lines = ["graph LR"]
    for box in boxes:
        words = escape(f"{box.title}\n{box.note}").replace("\n", "<br/>")
        lines.append(f'  {ids[box.name]}["{words}"]:::{box.state}')
    lines += [f"  {ids[other]} --> {ids[box.name]}" for box in boxes for other in box.after]
    for state in dict.fromkeys(box.state for box in boxes):
        fill, edge = COLORS.get(state, COLORS["waiting"])
        lines.append(f"  classDef {state} fill:{fill},stroke:{edge}")
    return "\n".join(lines) + "\n"
