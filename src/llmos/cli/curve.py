"""`llmos curve`: the loss curve of a model, or of a training that still runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmos.cli.compare import check_picture, curve_of
from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import note, print_json, print_table
from llmos.errors import InvalidRequestError

if TYPE_CHECKING:
    from llmos.sdk.client import Client

COLUMNS = ("step", "loss", "validation_loss", "learning_rate", "gradient_norm", "tokens_per_s")
ROWS = 12
"""Shown of a curve, spread evenly over it."""


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("curve", rich_help_panel="Train")(curve)


def curve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A trained model, or a job's number.")],
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw it (PNG, SVG or PDF).")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show how the loss of a training fell, also while it runs; --json prints every point.

    Examples:
      llmos curve my-model
      llmos curve my-model:2 --plot curve.png
      llmos curve 12 --json
    """
    check_picture(plot)
    with open_client(server, home) as client:
        name, points = _points(client, run)
    if plot is not None:
        from llmos.training.curve import draw_run

        draw_run(plot, name, points)
    if as_json:
        print_json({"run": name, "points": points})
        return
    named = [column for column in COLUMNS if any(column in point for point in points)]
    print_table(
        named,
        ([_shown(point.get(column)) for column in named] for point in _spread(points)),
        empty=f"{name} has measured nothing yet",
    )
    if plot is not None:
        note(f"written: {plot}")


def _points(client: Client, run: str) -> tuple[str, list[dict[str, float]]]:
    """Return what a run is called, and its points.

    Raises:
        InvalidRequestError: there is no curve of it.
    """
    from llmos.sdk.comparing import points_of

    if not run.isdecimal():
        model = client.model(run)
        return model["ref"], curve_of(client, model)
    job = client.job(int(run))
    if job["kind"] != "train":
        raise InvalidRequestError(f"job {run} is a {job['kind']}: only trainings have a curve")
    return f"{job['name']} (job {run})", points_of(client.job_events(int(run), follow=False))


def _spread(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """Return the last point of as many parts as are shown, with what else each part measured."""
    count = min(ROWS, len(points))
    ends = [(number + 1) * len(points) // count for number in range(count)]
    parts = [points[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    return [{key: value for point in part for key, value in point.items()} for part in parts]


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if value != int(value) else f"{value:.0f}"
