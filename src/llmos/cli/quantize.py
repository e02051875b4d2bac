"""`llmos quantize`: make a smaller and, on a CPU, faster version of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.models import PANEL
from llmos.cli.options import HomeOption, JsonOption, ModelArgument, ServerOption
from llmos.cli.output import print_json, size

if TYPE_CHECKING:
    from llmos.sdk.client import Client


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("quantize", rich_help_panel=PANEL)(quantize)


def quantize(
    model: ModelArgument,
    to: Annotated[
        str, typer.Option("--to", metavar="DTYPE", help="int8, or int4: half of that again.")
    ] = "int8",
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the new model; MODEL-int8 by default.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: print the job's number.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Make a quantised version of a model. On a CPU it then runs where the model is asked for.

    Ctrl-C leaves the job running.

    Examples:
      llmos quantize my-model
      llmos quantize my-model --to int4
      llmos quantize my-model:2 --name my-model-small
    """
    from llmos.cli.progress import watch_job

    with open_client(server, home) as client:
        job = client.quantize(model, to, name)
        if not detach:
            job = watch_job(client, job["id"], "quantising")
        if as_json:
            print_json(job)
        elif job["state"] != "succeeded":
            typer.echo(f"job {job['id']}: `llmos jobs logs {job['id']} -f` follows it")
        else:
            _report(client, job)


def _report(client: Client, job: dict[str, Any]) -> None:
    (ref,) = job["result"]["artifacts"]
    base = job["params"]["base"]
    before, after = base["manifest"].get("weights_bytes"), job["result"]["weights_bytes"]
    typer.echo(f"{ref} is ready: {size(before)} of weights became {size(after)}")
    running = client.model(base["ref"])["runs_as"]
    where = f"{base['ref']} now runs as it" if running == ref else f"`llmos run {ref}`"
    typer.echo(f"{where}; `llmos show {ref}` says how close it is")
