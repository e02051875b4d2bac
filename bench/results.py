"""Numbers of repeated runs: their median and spread, as text, JSON and bars."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
OURS, OTHERS = "#c8553d", ("#8fb3d9", "#5b86b5", "#b7c9a8", "#7f9c6e", "#d9c08f", "#a99bc4")


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Return the median and the range of what was measured, and each value in its order."""
    found = list(values)
    median = statistics.median(found)
    return {"median": median, "low": min(found), "high": max(found), "each": found}


def percentiles(values: Sequence[float], *shares: float) -> list[float]:
    """Return the values below which these percentages lie; of none, NaN."""
    if not values:
        return [float("nan")] * len(shares)
    ranked = sorted(values)
    return [ranked[min(int(len(ranked) * share / 100), len(ranked) - 1)] for share in shares]


def write(name: str, report: Mapping[str, Any]) -> None:
    """Write ``results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(f"written: {path}", flush=True)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print rows under a header, numbers with three digits that count."""
    shown = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(header), *shown]) for i in range(len(header))]
    for row in [list(header), *shown]:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells), flush=True)


def say(name: str, text: str, is_met: bool) -> None:
    """Print what was promised of a contestant, and whether it held."""
    print(f"{name}: {text}: {'ok' if is_met else 'MISSED'}", flush=True)


def _text(cell: Any) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"


class Plot:
    """A row of bar charts in one file: a group per label, a bar per contestant.

    Args:
        name: of the file under results/.
        titles: one per chart.
    """

    def __init__(self, name: str, *titles: str) -> None:
        self._path = RESULTS / f"{name}.png"
        self._figure = Figure(figsize=(6.4 * len(titles), 4.4), dpi=110, layout="constrained")
        FigureCanvasAgg(self._figure)
        drawn = self._figure.subplots(1, len(titles), squeeze=False)[0]
        self._axes: list[Axes] = list(drawn)
        for axes, title in zip(self._axes, titles, strict=True):
            axes.set_title(title, loc="left", fontsize=11, fontweight="bold")

    def bars(
        self,
        chart: int,
        unit: str,
        groups: Sequence[str],
        series: Mapping[str, Sequence[Mapping[str, float]]],
        *,
        is_log: bool = False,
    ) -> None:
        """Draw ``series`` (contestant -> one spread per group) into chart number ``chart``."""
        axes, width, others = self._axes[chart], 0.8 / max(len(series), 1), 0
        for i, (name, values) in enumerate(series.items()):
            is_ours = name.startswith("llmos")
            colour = OURS if is_ours else OTHERS[others % len(OTHERS)]
            others += not is_ours
            at = [group + i * width for group in range(len(values))]
            heights = [value["median"] for value in values]
            errors = [
                [value["median"] - value["low"] for value in values],
                [value["high"] - value["median"] for value in values],
            ]
            alpha = 1.0 if not is_ours or i == 0 else 0.6
            style = {"color": colour, "alpha": alpha, "label": name}
            axes.bar(at, heights, width * 0.95, yerr=errors, **style)
        axes.set_xticks([g + 0.4 - width / 2 for g in range(len(groups))], groups)
        axes.set_ylabel(unit)
        if is_log:
            axes.set_yscale("log")
        axes.grid(axis="y", color="#e6e6e6")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)

    def save(self) -> None:
        """Write the file, with the contestants' names below the charts, where they hide no bar."""
        RESULTS.mkdir(exist_ok=True)
        shown: dict[str, Any] = {}
        for axes in self._axes:
            handles, names = axes.get_legend_handles_labels()
            shown = dict(zip(names, handles, strict=True)) | shown
        style = {"loc": "outside lower center", "frameon": False, "fontsize": 8}
        self._figure.legend(shown.values(), shown.keys(), ncols=min(len(shown), 5), **style)
        self._figure.savefig(self._path)
        print(f"written: {self._path}", flush=True)
