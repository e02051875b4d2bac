"""Where steps are drawn, and the pictures made of it."""

from __future__ import annotations

import random
from xml.etree import ElementTree

import pytest

from llmos.apps.drawing import COLORS, MARKS, Box, mermaid, svg, text
from llmos.apps.graph import layout
from llmos.apps.steps import StepState

SVG = "{http://www.w3.org/2000/svg}"


def box(name: str, *after: str, state: str = "waiting") -> Box:
    return Box(name, after, name, f"kind {state}", state)


def drawn(*boxes: Box) -> str:
    return "\n".join(text(boxes))


def test_a_step_stands_in_the_column_after_the_last_it_waits_for() -> None:
    placed = layout({"a": (), "b": ("a",), "c": ("a",), "d": ("a", "b"), "e": ("d", "c")})
    columns = [[node.name for node in column] for column in placed.columns]
    assert [sorted(name for name in column if name) for column in columns] == [
        ["a"],
        ["b", "c"],
        ["d"],
        ["e"],
    ]
    assert sum(name is None for column in columns for name in column) == 2


def test_nothing_is_drawn_where_something_else_is_and_edges_go_one_column_on() -> None:
    rng = random.Random(0)
    for _ in range(100):
        names = [f"s{n}" for n in range(rng.randint(1, 14))]
        awaited = {
            name: tuple(rng.sample(names[:n], rng.randint(0, min(n, 3))))
            for n, name in enumerate(names)
        }
        placed = layout(awaited)
        for column in placed.columns:
            rows = [node.row for node in column]
            assert len(set(rows)) == len(rows)
        assert all(other.column == one.column + 1 for one, other in placed.edges)
        assert {node.name for column in placed.columns for node in column if node.name} == set(
            names
        )
        for lines in text([box(name, *awaited[name]) for name in names]):
            assert lines == lines.rstrip()


def test_edges_do_not_cross_where_they_need_not() -> None:
    assert drawn(box("a"), box("b"), box("x", "b"), box("y", "a")) == "· a ── · y\n· b ── · x"


def test_the_graph_as_text() -> None:
    steps = (
        box("data", state="succeeded"),
        box("train", "data", state="running"),
        box("sweep", "data", state="queued"),
        box("quantize", "train"),
        box("judge", "quantize", "sweep", "data", state="failed"),
    )
    assert drawn(*steps).splitlines() == [
        "✓ data ─┬── ● train ── · quantize ─┐",
        "        ├── ○ sweep ───────────────┴─┬── ✗ judge",
        "        └────────────────────────────┘",
    ]
    assert drawn(box("one")) == "· one"


def test_lines_that_enter_a_row_do_so_after_its_own_step_has_left_it() -> None:
    steps = (box("a"), box("b"), box("c"), box("t1", "a"), box("t2", "a", "b"), box("t3", "c", "a"))
    assert drawn(*steps).splitlines() == [
        "· a ─┬── · t1",
        "· b ─┼── · t2",
        "· c ─┴── · t3",
    ]


def test_svg_is_well_formed_and_shows_every_step_whatever_its_name() -> None:
    boxes = [
        box("a", state="succeeded"),
        Box("b", ("a",), "<script>&", 'of "k"', "running"),
        box("c", "a", "b", state="no-such-state"),
    ]
    root = ElementTree.fromstring(svg(boxes, "a <title>"))
    words = [node.text for node in root.iter(f"{SVG}text")]
    assert words == ["✓ a", "kind succeeded", "● <script>&", 'of "k"', " c", "kind no-such-state"]
    assert root.findtext(f"{SVG}title") == "a <title>"
    assert len(root.findall(f"{SVG}rect")) == 1 + len(boxes)
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for rect in root.findall(f"{SVG}rect")[1:]:
        assert float(rect.get("x", "")) + float(rect.get("width", "")) <= width
        assert float(rect.get("y", "")) + float(rect.get("height", "")) <= height


def test_mermaid_has_every_step_and_edge() -> None:
    drawing = mermaid([box("end", state="succeeded"), box("b-c", "end")])
    assert drawing.splitlines() == [
        "graph LR",
        '  s0["end<br/>kind succeeded"]:::succeeded',
        '  s1["b-c<br/>kind waiting"]:::waiting',
        "  s0 --> s1",
        "  classDef succeeded fill:#dafbe1,stroke:#1a7f37",
        "  classDef waiting fill:#f6f8fa,stroke:#8c959f",
    ]


@pytest.mark.parametrize("state", StepState)
def test_every_state_has_a_mark_and_a_color(state: StepState) -> None:
    assert state in MARKS and state in COLORS
