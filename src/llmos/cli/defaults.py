"""`llmos default`: which model a task name, such as `sentiment`, answers with."""

from __future__ import annotations

from typing import Annotated

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import print_json, print_table


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("default", rich_help_panel="Models")(default)


def default(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="Task name, e.g. sentiment.")
    ] = None,
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Model that the task answers with.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show the model each task answers with, or give a task another one.

    Examples:
      llmos default
      llmos default sentiment my-sentiment
    """
    if task is not None and model is None:
        raise typer.BadParameter("give a task and a model, or neither to list them all")
    with open_client(server, home) as client:
        if task is not None and model is not None:
            changed = client.set_task_default(task, model)
            defaults = {changed["task"]: changed["model"]}
        else:
            defaults = client.task_defaults()
    if as_json:
        print_json(defaults)
    elif task is not None:
        typer.echo(f"{task} now answers with {defaults[task]}")
    else:
        print_table(
            ("task", "model"),
            sorted(defaults.items()),
            empty="no task has a model yet: `llmos default TASK MODEL` gives it one",
        )
