"""The picture on a dataset's card: how long its texts are, in which languages and words, with which
labels, and what became of the rows. The same dataset gives the same picture.
"""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmos.data.datasets.stats import FieldStats, Stats

BAR, LINE, GRID, TEXT = "#8fb3d9", "#33658a", "#e6e6e6", "#333333"
MAX_BARS = 10
BINS = 20
SHOWN_CHARS = 18
COLUMNS = 2
LINE_INCHES = 2.9

Panel = Callable[[Any], None]


def draw(stats: Stats, sample: Mapping[str, Any] | None, outcomes: Mapping[str, int]) -> bytes:
    """Return a PNG of what there is to draw.

    Args:
        sample: as `sampled.describe_sample` returns it.
        outcomes: rows by what became of them, as "kept" and "dropped".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to load
    from matplotlib.figure import Figure

    panels = _panels(stats, sample, outcomes)
    lines = -(-len(panels) // COLUMNS)
    height = LINE_INCHES * lines
    figure = Figure(figsize=(10, height), dpi=100)
    FigureCanvasAgg(figure)
    # Room for the longest names: to have it found by a layout engine takes longer than the drawing.
    room = {"left": 0.14, "right": 0.98, "top": 1 - 0.3 / height, "bottom": 0.3 / height}
    axes = figure.subplots(
        lines, COLUMNS, squeeze=False, gridspec_kw=room | {"wspace": 0.4, "hspace": 0.33}
    ).flatten()
    for panel, place in zip(panels, axes, strict=False):
        panel(place)
        place.tick_params(colors=TEXT, labelsize=8)
        for side in ("top", "right"):
            place.spines[side].set_visible(False)
    for place in axes[len(panels) :]:
        place.set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, format="png", metadata={"Software": None})
    return written.getvalue()


def label_field(stats: Stats, but: str | None = None) -> str | None:
    """Return the field whose values are labels: few, and of several rows each; None for none."""
    found = [
        name
        for name, field in sorted(stats.fields.items())
        if name != but and field.values and 1 < len(field.values) <= field.present / 2
    ]
    return "label" if "label" in found else next(iter(found), None)


def _panels(
    stats: Stats, sample: Mapping[str, Any] | None, outcomes: Mapping[str, int]
) -> list[Panel]:
    panels: list[Panel] = []
    if sample is not None:
        field, rows = sample["field"], sample["rows"]
        lengths = stats.fields[field].lengths
        panels.append(lambda axes: _lengths(axes, field, lengths))
        if rows:
            of = f"of {rows:,} rows"
            panels.append(lambda axes: _bars(axes, f"languages {of}", sample["languages"]))
            panels.append(lambda axes: _bars(axes, f"words {of}", dict(sample["words"])))
            panels.append(lambda axes: _growth(axes, sample["growth"]))
    label = label_field(stats, sample["field"] if sample else None)
    if label is not None:
        values = _by_count(stats.fields[label])
        panels.append(lambda axes: _bars(axes, _written(label, "a field"), values))
    panels.append(lambda axes: _bars(axes, "rows", outcomes))
    return panels


def _by_count(field: FieldStats) -> dict[str, int]:
    return dict(sorted((field.values or {}).items(), key=lambda one: (-one[1], one[0])))


def _bars(axes: Any, title: str, counts: Mapping[str, int]) -> None:
    shown = list(counts.items())[:MAX_BARS]
    names = [_written(name, f"no. {number}") for number, (name, _) in enumerate(shown, 1)]
    places = range(len(shown))
    bars = axes.barh(places, [count for _, count in shown], color=BAR)
    told = [f"{count:,}" for _, count in shown]
    axes.bar_label(bars, told, padding=3, fontsize=8, color=TEXT)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(_counted)
    _titled(axes, title, "x")


def _lengths(axes: Any, field: str, lengths: Mapping[int, int]) -> None:
    """Draw a histogram whose bins are as wide as lengths are long."""
    most = max(max(lengths), 1)
    edges = sorted({round(math.exp(math.log(most + 1) * bin / BINS)) for bin in range(BINS + 1)})
    counts = [0] * len(edges)
    for length, count in lengths.items():
        place = sum(edge <= length for edge in edges) - 1
        counts[max(0, min(place, len(edges) - 2))] += count
    if len(edges) > 1:
        axes.stairs(counts[: len(edges) - 1], edges, fill=True, color=BAR)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(_counted)
    axes.yaxis.set_major_formatter(_counted)
    _titled(axes, f"characters of {_written(field, 'a field')}", "y")


def _growth(axes: Any, growth: Sequence[Sequence[int]]) -> None:
    axes.plot(*zip(*growth, strict=True), color=LINE, linewidth=1.8)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(_counted)
    _titled(axes, "different words among the first so many", "both")


def _counted(value: float, _: int) -> str:
    return f"{value:,.0f}"


def _titled(axes: Any, title: str, grid: str) -> None:
    axes.set_title(title, loc="left", color=TEXT, fontsize=10, fontweight="bold")
    axes.grid(axis=grid, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _written(text: str, otherwise: str) -> str:
    """Return a text as it can be drawn, cut; what the font has no letters for is named otherwise,
    as the card tells it."""
    if not text.strip() or not all(ord(one) in _glyphs() for one in text):
        return otherwise
    plain = text.replace("$", r"\$")
    return plain if len(text) <= SHOWN_CHARS else plain[: SHOWN_CHARS - 1] + "…"


@functools.cache
def _glyphs() -> frozenset[int]:
    """Return the characters of the font that comes with matplotlib."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())
