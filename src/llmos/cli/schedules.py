"""Commands for schedules: run a pipeline by a cron, list what is scheduled, remove it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import print_json, print_table

app = typer.Typer(no_args_is_help=True)

ScheduleArgument = Annotated[
    int, typer.Argument(metavar="N", help="Schedule number, as `llmos schedule list` shows.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="schedule", rich_help_panel="Train")


@app.callback()
def schedule() -> None:
    """Run pipelines again and again, by the clock.

    Examples:
      llmos schedule add "0 2 * * *" pipeline.yaml
      llmos schedule list
    """


@app.command("add")
def add(
    cron: Annotated[
        str,
        typer.Argument(
            metavar="CRON",
            help='Five fields: minute, hour, day of month, month, day of week; or "@daily".',
        ),
    ],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Pipeline file (YAML).")],
    timezone: Annotated[
        str, typer.Option("--timezone", metavar="ZONE", help="Whose clock, e.g. Asia/Shanghai.")
    ] = "UTC",
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The pipeline's own if not given.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Run a pipeline by a cron from now on. It is checked as if it were to run at once.

    A time that passes while no server runs is made up for once, at its start. A turn is left out
    while the last run still goes on.

    Examples:
      llmos schedule add "0 2 * * *" pipeline.yaml
      llmos schedule add "30 6 * * mon-fri" pipeline.yaml --timezone Asia/Shanghai --name mornings
      llmos schedule add @weekly pipeline.yaml
    """
    from llmos.apps.pipeline_file import load
    from llmos.cli.progress import transfer

    pipeline = load(path)
    with open_client(server, home) as client, transfer("uploading") as on_progress:
        made = client.add_schedule(cron, pipeline, timezone, name, on_progress)
    if as_json:
        print_json(made)
        return
    typer.echo(f"schedule {made['id']} ({made['name']}) runs first at {_time(made['next_at'])}")


@app.command("list")
def list_schedules(
    as_json: JsonOption = False, server: ServerOption = None, home: HomeOption = None
) -> None:
    """List schedules, the next to run first; their times are this machine's.

    Examples:
      llmos schedule list
      llmos schedule list --json
    """
    with open_client(server, home) as client:
        rows = client.schedules()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("n", "name", "cron", "timezone", "next", "last", "trouble"),
        (
            (
                row["id"],
                row["name"],
                row["cron"],
                row["timezone"],
                _time(row["next_at"]),
                _time(row["last_at"]),
                row["last_error"],
            )
            for row in rows
        ),
        empty='no schedules yet: `llmos schedule add "0 2 * * *" FILE` makes one',
    )


@app.command("rm")
def remove(number: ScheduleArgument, server: ServerOption = None, home: HomeOption = None) -> None:
    """Remove a schedule; a run of it that goes on is not stopped.

    Examples:
      llmos schedule rm 3
    """
    with open_client(server, home) as client:
        client.remove_schedule(number)
    typer.echo(f"schedule {number} is removed")


def _time(at: float | None) -> str:
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))
