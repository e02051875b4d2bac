"""Pictures of simulations: policies side by side, and as the load grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmos.errors import InvalidRequestError
from llmos.simulate.report import Report

COLOURS = ("#c8553d", "#8fb3d9", "#5b86b5", "#b7c9a8", "#7f9c6e", "#d9c08f")
"""The first is llmos's own, in all of the project's plots."""
FORMATS = (".png", ".svg", ".pdf")


def check_format(path: Path) -> None:
    """Raise InvalidRequestError where a picture cannot be written under this name."""
    if path.suffix.lower() not in FORMATS:
        raise InvalidRequestError(f"{path}: a plot is {', '.join(FORMATS)}.", param="plot")


def draw_policies(reports: Sequence[Report], path: Path) -> None:
    """Write what policies made of one scenario: goodput, good answers by class, first tokens."""
    first = reports[0]
    figure, axes = _figure(
        f"{first.trace}: {first.nodes:,} devices, {first.rate_per_s:,.0f} requests/s",
        "good answers a second",
        "share of good answers, by class",
        "time to first token, interactive and standard (s)",
    )
    names = [report.policy for report in reports]
    colours = COLOURS[: len(names)]
    axes[0].bar(names, [report.goodput_per_s for report in reports], color=colours)
    classes = list(dict.fromkeys(name for report in reports for name in report.good_by_class))
    _groups(axes[1], classes, {r.policy: r.good_by_class for r in reports})
    shares = list(dict.fromkeys(name for report in reports for name in report.ttft_s))
    _groups(axes[2], shares, {r.policy: r.ttft_s for r in reports})
    axes[2].set_yscale("log")
    _save(figure, axes[1], path)


def draw_sweeps(
    sweeps: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], path: Path
) -> None:
    """Write goodput over offered load: a picture for each trace, a line for each policy.

    Args:
        sweeps: trace -> policy -> reports as `Report.as_json` has them, the load growing.
    """
    figure, axes = _figure("", *(f"{trace}: share of good answers" for trace in sweeps))
    for one, policies in zip(axes, sweeps.values(), strict=True):
        for colour, (policy, reports) in zip(COLOURS, policies.items(), strict=False):
            offered = [report["rate_per_s"] / report["nodes"] for report in reports]
            good = [report["good_share"] for report in reports]
            one.plot(offered, good, marker="o", color=colour, label=policy)
        one.set_xlabel("requests a second, for each device")
        one.set_ylim(bottom=0.0, top=1.03)
    _save(figure, axes[0], path)


def _figure(title: str, *titles: str) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(titles), 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    axes: list[Any] = list(figure.subplots(1, len(titles), squeeze=False)[0])
    for one, text in zip(axes, titles, strict=True):
        one.set_title(text, loc="left", fontsize=10, fontweight="bold")
        one.grid(axis="y", color="#e6e6e6")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _groups(axes: Any, groups: Sequence[str], series: Mapping[str, Mapping[str, float]]) -> None:
    """Draw bars: a group for each name, in it one of each policy that has it."""
    width = 0.8 / len(series)
    for at, (colour, (policy, values)) in enumerate(zip(COLOURS, series.items(), strict=False)):
        heights = [values.get(name, 0.0) for name in groups]
        left = [group + at * width for group in range(len(groups))]
        axes.bar(left, heights, width * 0.95, color=colour, label=policy)
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(groups))], groups)


def _save(figure: Any, named: Any, path: Path) -> None:
    handles, names = named.get_legend_handles_labels()
    style = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    figure.legend(handles, names, ncols=len(names), **style)
    figure.savefig(path)
