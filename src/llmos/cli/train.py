"""`llmos train`: send a recipe off as a job and watch it learn; and what a recipe can train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import note, print_json, print_table
from llmos.cli.using import say_ready
from llmos.errors import RecipeError


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("train", rich_help_panel="Train")(train)
    app.command("architectures", rich_help_panel="Train")(architectures)


def train(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model; the recipe's own by default.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: print the job's number.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            "--idempotency-key",
            metavar="KEY",
            help="Given again with the same recipe, the training it began is the one meant.",
        ),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Train a model from a recipe, with live progress. Ctrl-C leaves the training running.

    Examples:
      llmos train recipes/char-gpt.yaml --set data.path=FILE.txt --name my-model
      llmos train recipes/char-gpt.yaml --set steps=200 --set seed=7 --name quick
      llmos train recipes/starter-chat.yaml --detach
      llmos train nightly.yaml --detach --idempotency-key "$(date +%F)"
    """
    from llmos.cli.progress import transfer, watch_job

    wanted = checked_recipe(recipe, list(changes or ()))
    with open_client(server, home) as client:
        with transfer("uploading") as on_progress:
            job = client.train(
                wanted,
                name or wanted["name"],
                on_progress=on_progress,
                idempotency_key=idempotency_key,
            )
        if not detach:
            job = watch_job(client, job["id"], "training")
    _report(job, wanted.get("task"), as_json)


def architectures(as_json: JsonOption = False) -> None:
    """List the kinds of network that can be trained from scratch.

    Examples:
      llmos architectures
      llmos train char-lstm --set data.path=FILE.txt --name my-lstm
    """
    import dataclasses

    import llmos

    found = llmos.architectures()
    if as_json:
        print_json([dataclasses.asdict(one) for one in found])
        return
    print_table(
        ("architecture", "recipe", "tasks", "account", "paper"),
        (
            (one.architecture, one.recipe, " ".join(one.tasks), one.account, one.paper)
            for one in found
        ),
        empty="there are none",
    )
    note("`llmos train RECIPE --name NAME` trains one; docs/models has a page for each")


def checked_recipe(path: Path, changes: list[str]) -> dict[str, Any]:
    """Return a recipe with its changes as plain JSON, known to be good before anything is sent.

    Recipes that ship with llmos are found by their name.

    Raises:
        RecipeError: there is no such recipe, or something in it is wrong.
    """
    from llmos.training.recipe import find, load, override, parse

    try:
        recipe = parse(override(load(find(path)), changes))
    except (TypeError, ValueError) as error:  # YAML that JSON has no form for: dates as keys, loops
        raise RecipeError(f"{path} is not a plain mapping of names to values: {error}") from None
    return recipe.model_dump(mode="json", exclude_defaults=True)


def _report(job: dict[str, Any], task: str | None, as_json: bool) -> None:
    if as_json:
        print_json(job)
        return
    if job["state"] != "succeeded":
        typer.echo(f"job {job['id']}: `llmos jobs logs {job['id']} -f` follows it")
        return
    for ref in (job.get("result") or {}).get("artifacts") or ():
        say_ready(ref, task)
