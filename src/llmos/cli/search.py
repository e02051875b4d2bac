"""`llmos search`: a recipe trained with other hyper-parameters, to see which are best."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.compare import check_picture
from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JobArgument, JsonOption, ServerOption
from llmos.cli.output import note, print_json, print_table
from llmos.errors import InvalidRequestError, RecipeError

if TYPE_CHECKING:
    from llmos.sdk.client import Client

app = typer.Typer(no_args_is_help=True)
SECTION = "search"
JOBS_A_PAGE = 1000


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name=SECTION, rich_help_panel="Train")


@app.callback()
def search() -> None:
    """Search for the best hyper-parameters of a recipe: each trial is an ordinary training.

    What is tried stands under `search` in the recipe, or is given with --over.

    Examples:
      llmos search run char-gpt --over optimizer.learning_rate=[1e-3,3e-3] --name tuned
      llmos search show 12
    """


@app.command("run")
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML).")],
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over", metavar="KEY=VALUES", help="Values to try of a key, or {low: …, high: …}."
        ),
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="grid (the default), random or halving.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", metavar="N", help="Of random and halving.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the models; the recipe's by default.")
    ] = None,
    alias: Annotated[
        str | None, typer.Option("--alias", help="Point this alias at the best version.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: print the job's number.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Train a recipe with each choice of hyper-parameters. Ctrl-C leaves the search running.

    Examples:
      llmos search run char-gpt --over optimizer.learning_rate=[1e-3,3e-3] --over seed=[0,1]
      llmos search run mine.yaml --over "optimizer.learning_rate={low: 1e-4, high: 1e-2, log: true}"
        --method halving --trials 9 --alias best
    """
    from llmos.cli.progress import follow_job, transfer
    from llmos.training import recipe as recipes

    wanted, section = _wanted(recipes.find(recipe), list(changes or ()), list(over or ()))
    section |= {key: value for key, value in (("method", method), ("trials", trials)) if value}
    with open_client(server, home) as client:
        with transfer("uploading") as on_progress:
            job = client.search(wanted, section, name or wanted["name"], alias, on_progress)
        if not detach:
            note(f"job {job['id']} is queued")
            job = follow_job(client, job["id"], "searching")
        rows = _trials(client, job)
    if as_json:
        print_json(job)
    elif detach:
        typer.echo(job["id"])
    else:
        _print_rows(rows, job)


@app.command("show")
def show(
    number: JobArgument,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE", help="Draw results over what was tried."),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show every trial of a search, the best first, also while it runs.

    Examples:
      llmos search show 12
      llmos search show 12 --plot search.png
    """
    check_picture(plot)
    with open_client(server, home) as client:
        job = client.job(number)
        if job["kind"] != SECTION:
            raise InvalidRequestError(f"job {number} is a {job['kind']}, not a search")
        rows = _trials(client, job)
    if plot is not None:
        from llmos.training.search_plot import draw_search

        draw_search(plot, rows, job["params"]["search"])
        note(f"written: {plot}")
    if as_json:
        print_json({"job": number, "state": job["state"], "trials": rows})
        return
    _print_rows(rows, job)


def _trials(client: Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a search so far, from the jobs that came after it."""
    from llmos.apps.search_jobs import trial_rows

    found: list[dict[str, Any]] = []
    before: int | None = None
    while page := client.jobs(limit=JOBS_A_PAGE, before=before):
        found += [one for one in page if one["id"] > job["id"] and one["owner"] == job["owner"]]
        before = page[-1]["id"]
        if before <= job["id"]:
            break
    return trial_rows(job, found)


def _wanted(
    path: Path, changes: list[str], over: list[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a recipe, known to be good by itself, and its search.

    Raises:
        RecipeError: there is no such recipe, or something in it is wrong.
    """
    from llmos.training.recipe import load, override, parse

    given = load(path)
    section = given.pop(SECTION, {})
    if not isinstance(section, dict):
        raise RecipeError("search must be a mapping, with parameters")
    parameters = dict(section.get("parameters") or {})
    for one in over:
        key, equals, _ = one.partition("=")
        if not equals:
            raise RecipeError(f"--over wants KEY=VALUES (such as seed=[0,1]), not {one!r}")
        parameters[key.strip()] = override({}, [f"values={one.partition('=')[2]}"])["values"]
    if not parameters:
        raise InvalidRequestError("nothing to search over: give --over KEY=[VALUE, …]")
    changed = override(given, changes)
    parse(changed)
    return changed, section | {"parameters": parameters}


def _print_rows(rows: list[dict[str, Any]], job: dict[str, Any]) -> None:
    section = job["params"]["search"]
    keys = list(section["parameters"])
    print_table(
        ("trial", "rung", *keys, "steps", section["metric"], "version", "job", "state"),
        (
            (
                row["trial"],
                row["rung"],
                *(_shown(row["settings"][key]) for key in keys),
                row["steps"],
                _shown(row["value"]),
                row["version"],
                row["job"],
                row["error"] or row["state"],
            )
            for row in rows
        ),
        empty="no trial has begun yet",
    )


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
