"""The results of a search as a picture: a panel for each parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmos.training.curve import GRID, TEXT

PANEL_INCHES = 4.0
LOG_RATIO = 20.0
"""Values that lie further apart than this are drawn on a logarithmic axis."""
MOST_TICKS = 5
"""Of any other axis, so that their numbers have room."""


def draw_search(path: Path, rows: Sequence[Mapping[str, Any]], section: Mapping[str, Any]) -> None:
    """Draw what each trial came to over what it had of each parameter, a colour for each rung.

    Args:
        rows: ``{"rung", "settings", "value"}``; those without a value are counted in the title.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to load
    from matplotlib.figure import Figure

    keys = list(section["parameters"])
    measured = [row for row in rows if row["value"] is not None]
    figure = Figure(figsize=(PANEL_INCHES * len(keys) + 1, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for panel, key in zip(panels, keys, strict=True):
        values = [row["settings"][key] for row in measured]
        is_number = all(type(value) in (int, float) for value in values)
        if is_number and values and min(values) > 0 and max(values) / min(values) >= LOG_RATIO:
            panel.set_xscale("log")
        elif is_number:
            panel.locator_params(axis="x", nbins=MOST_TICKS)
        for rung in sorted({row["rung"] for row in measured}):
            here = [row for row in measured if row["rung"] == rung]
            across = [row["settings"][key] for row in here]
            across = across if is_number else [str(value) for value in across]
            panel.scatter(across, [row["value"] for row in here], label=f"rung {rung}", s=28)
        panel.set_xlabel(key, color=TEXT)
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
    panels[0].set_ylabel(section["metric"], color=TEXT)
    if len({row["rung"] for row in measured}) > 1:
        panels[-1].legend(frameon=False)
    lost = len(rows) - len(measured)
    title = f"{len(rows)} trials" + (f", {lost} without a result" if lost else "")
    figure.suptitle(title, color=TEXT, fontsize=12, fontweight="bold")
    figure.savefig(path)
