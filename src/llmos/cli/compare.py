"""`llmos compare`: trained models beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import note, print_json, print_table
from llmos.errors import InvalidRequestError

if TYPE_CHECKING:
    from llmos.sdk.client import Client

CURVE_FILE = "loss.json"
PICTURES = frozenset({".png", ".svg", ".pdf"})


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("compare", rich_help_panel="Train")(compare)


def compare(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL …", help="Two or more trained models.")
    ],
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw their loss curves over one another."),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show where the recipes of trained models differ, and what they came to.

    Examples:
      llmos compare my-model:1 my-model:2
      llmos compare my-lstm my-gru --plot curves.png
    """
    from llmos.sdk import comparing

    check_picture(plot)
    with open_client(server, home) as client:
        found = [*{one["ref"]: one for one in map(client.model, models)}.values()]
        if len(found) < 2:
            raise InvalidRequestError("compare needs two models or more", param="models")
        curves = {one["ref"]: curve_of(client, one) for one in found} if plot is not None else {}
    compared = comparing.compare(found)
    if plot is not None:
        from llmos.training.curve import draw_together

        draw_together(plot, curves)
    if as_json:
        print_json(compared.as_json())
        return
    print_table(
        ("recipe", *compared.refs),
        (
            (key, *("default" if value is None else _shown(value) for value in values))
            for key, values in compared.recipe.items()
        ),
        empty="their recipes are the same",
    )
    typer.echo()
    print_table(
        ("measured", *compared.refs),
        ((key, *map(_shown, values)) for key, values in compared.metrics.items()),
        empty="nothing was measured of them",
    )
    if plot is not None:
        note(f"written: {plot}")


def check_picture(path: Path | None) -> None:
    """Refuse a file that no picture is written to. Raises InvalidRequestError."""
    if path is not None and path.suffix not in PICTURES:
        raise InvalidRequestError(f"--plot writes {', '.join(sorted(PICTURES))}", param="plot")


def curve_of(client: Client, model: dict[str, Any]) -> list[dict[str, float]]:
    """Return the points of a model's loss curve.

    Raises:
        InvalidRequestError: it was not trained here.
    """
    if CURVE_FILE not in model["files"]:
        raise InvalidRequestError(f"{model['ref']} has no loss curve: it was not trained here")
    points: list[dict[str, float]] = client.model_json(model["ref"], CURVE_FILE)["points"]
    return points


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)
