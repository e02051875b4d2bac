"""The loss curve of a run as JSON, as a table and as a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmos.training.recipe import Recipe

TRAIN, VALIDATION, GRID, TEXT = "#8fb3d9", "#c8553d", "#e6e6e6", "#333333"
SMOOTHED = "#33658a"
WATCHED = (
    ("learning_rate", "learning rate"),
    ("gradient_norm", "gradient norm"),
    ("tokens_per_s", "tokens/s"),
)
"""What is drawn below the losses of a run, with its title."""
CHECKED: dict[str, Any] = {"linewidth": 1.8, "marker": "o", "markersize": 4}
"""How validation losses are drawn."""
TOKENS = "cross-entropy (nats per token)"
MEASURES = {
    "sequence_classification": "cross-entropy (nats per text)",
    "question_answering": "cross-entropy (nats per end of an answer)",
    "contrastive": "cross-entropy (nats per pair)",
    "dpo": "cross-entropy (nats per pair)",
    "regression": "squared error",
    "elbo": "evidence lower bound, negative (nats per token)",
    "adversarial": "loss of the phase; validation in nats per token",
    "word_vectors": "loss per pair of words",
}
"""What losses are, by the objective; of any other `TOKENS`."""
SEVERAL = "mean of the losses of all tasks"
STEP_METRICS = "step_metrics.csv"
"""The table, named as OpenAI names that of a fine-tuning."""
OPENAI_NAMES = {
    "loss": "train_loss",
    "validation_loss": "valid_loss",
    "validation_token_accuracy": "valid_mean_token_accuracy",
    "full_validation_loss": "full_valid_loss",
    "full_validation_token_accuracy": "full_valid_mean_token_accuracy",
}
"""Of what is measured, where it has one; the others are told by ours."""


def measure_of(recipe: Recipe) -> str:
    """Return what the losses of a recipe are."""
    return SEVERAL if recipe.also is not None else MEASURES.get(recipe.objective, TOKENS)


def write(
    directory: Path,
    name: str,
    points: list[dict[str, float]],
    final_loss: float,
    measure: str,
) -> None:
    """Write loss.json (`{"points": […], "validation_loss"}`), step_metrics.csv and loss.png into
    ``directory``; ``measure`` says what the losses are."""
    content: dict[str, Any] = {"points": points, "validation_loss": final_loss}
    (directory / "loss.json").write_text(json.dumps(content, indent=1))
    write_table(directory / STEP_METRICS, points)
    draw(directory / "loss.png", name, points, final_loss, measure)


def write_table(path: Path, points: list[dict[str, float]]) -> None:
    """Write a row for each point: the step, what OpenAI has a name for, and what else there is;
    empty where something was not measured."""
    measured = dict.fromkeys(name for point in points for name in point)
    names = ["step", *(n for n in OPENAI_NAMES if n in measured)]
    names += [name for name in measured if name not in names]
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow([OPENAI_NAMES.get(name, name) for name in names])
        for point in points:
            told = {**point, "step": int(point["step"])}
            rows.writerow([told.get(name, "") for name in names])


def draw(
    path: Path, name: str, points: list[dict[str, float]], final_loss: float, measure: str
) -> None:
    """Draw training and validation loss over steps, the training loss also smoothed."""
    figure, axes = _figure(measure)
    steps, losses = _line(points, "loss")
    axes.plot(steps, losses, color=TRAIN, alpha=0.45, linewidth=1)
    axes.plot(steps, _smooth(losses), color=SMOOTHED, linewidth=1.8, label="training")
    axes.plot(*_line(points, "validation_loss"), color=VALIDATION, label="validation", **CHECKED)
    title = f"{name} · validation loss {final_loss:.3f}"
    axes.set_title(title, loc="left", color=TEXT, fontsize=12, fontweight="bold")
    _save(figure, axes, path)


def draw_run(path: Path, name: str, points: list[dict[str, float]]) -> None:
    """Draw a run that may still go on: losses, learning rate, gradient norm and tokens per second,
    each over steps."""
    figure, panels = _panels(["loss", *(title for _, title in WATCHED)])
    steps, losses = _line(points, "loss")
    panels[0].plot(steps, losses, color=TRAIN, alpha=0.45, linewidth=1)
    panels[0].plot(steps, _smooth(losses), color=SMOOTHED, linewidth=1.8, label="training")
    validation = _line(points, "validation_loss")
    panels[0].plot(*validation, color=VALIDATION, label="validation", **CHECKED)
    panels[0].legend(frameon=False)
    panels[0].set_title(name, loc="left", color=TEXT, fontsize=12, fontweight="bold")
    for panel, (measured, _) in zip(panels[1:], WATCHED, strict=True):
        panel.plot(*_line(points, measured), color=SMOOTHED, linewidth=1.2)
    panels[-1].set_xlim(left=0)
    figure.savefig(path)


def _panels(titles: list[str]) -> tuple[Any, Any]:
    """Return a figure and its axes, one below the other, the first the tallest."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [2.5, *(1.0 for _ in titles[1:])]
    panels = figure.subplots(len(titles), 1, sharex=True, height_ratios=ratios)
    for panel, title in zip(panels, titles, strict=True):
        _plain(panel, title)
    panels[-1].set_xlabel("step", color=TEXT)
    return figure, panels


def draw_together(path: Path, curves: Mapping[str, list[dict[str, float]]]) -> None:
    """Draw the curves of several runs over one another: training pale, validation strong."""
    figure, axes = _figure("loss, validation strong")
    for number, (name, points) in enumerate(curves.items()):
        color = f"C{number % 10}"
        steps, losses = _line(points, "loss")
        axes.plot(steps, _smooth(losses), color=color, alpha=0.4, linewidth=1)
        axes.plot(*_line(points, "validation_loss"), color=color, label=name, **CHECKED)
    _save(figure, axes, path)


def _figure(label: str) -> tuple[Any, Any]:
    """Return a figure and its axes, of steps and what ``label`` names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to load
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xlabel("step", color=TEXT)
    _plain(axes, label)
    return figure, axes


def _plain(axes: Any, label: str) -> None:
    axes.set_ylabel(label, color=TEXT)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.set_xlim(left=0)
    axes.legend(frameon=False)
    figure.savefig(path)


def _line(points: list[dict[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which something was measured, and what."""
    measured = [point for point in points if name in point]
    return [point["step"] for point in measured], [point[name] for point in measured]


def _smooth(values: list[float]) -> list[float]:
    """Mean over a window around each point, 2% of the curve to each side: it does not lag."""
    reach = len(values) // 50
    smoothed = []
    for i in range(len(values)):
        sides = min(reach, i, len(values) - 1 - i)
        window = values[i - sides : i + sides + 1]
        smoothed.append(sum(window) / len(window))
    return smoothed
