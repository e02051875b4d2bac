"""`llmos data split` and `mix`: a dataset in parts, and several in one."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.data_options import DatasetArgument
from llmos.cli.options import DetachOption, HomeOption, JsonOption, ServerOption
from llmos.cli.output import counted, print_json

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `llmos data`."""
    app.command("split")(split)
    app.command("mix")(mix)


def split(
    dataset: DatasetArgument,
    parts: Annotated[
        str, typer.Option("--parts", metavar="NAME=SHARE,…", help="Parts and their shares.")
    ] = "train=0.8,validation=0.1,test=0.1",
    by: Annotated[
        str | None, typer.Option("--by", metavar="FIELD", help="Equal values stay together.")
    ] = None,
    stratify: Annotated[
        str | None,
        typer.Option("--stratify", metavar="FIELD", help="Labels, in the same shares everywhere."),
    ] = None,
    time: Annotated[
        str | None, typer.Option("--time", metavar="FIELD", help="Earlier rows come first.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Parts are called NAME-PART; the dataset's.")
    ] = None,
    seed: SeedOption = 0,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Split a dataset into parts: at random, by group, by label or by time.

    Each part is a dataset of its own. The same seed gives the same parts.

    Examples:
      llmos data split reviews
      llmos data split reviews --parts train=0.9,test=0.1 --stratify label
      llmos data split talks --by speaker
    """
    shares = _numbers(parts.split(","), "--parts")
    options: dict[str, Any] = {"by": by, "stratify": stratify, "time": time, "name": name}
    with open_client(server, home) as client:
        job = client.split_dataset(dataset, shares, seed=seed, **options)
        _ended(client, job, "splitting", detach, as_json)


def mix(
    datasets: Annotated[
        list[str], typer.Argument(metavar="DATASET=WEIGHT…", help="Datasets and their weights.")
    ],
    name: Annotated[str, typer.Option("--name", help="Of the dataset to make.")],
    rows: Annotated[
        int | None, typer.Option("--rows", min=1, help="Of all; else as many as there are.")
    ] = None,
    repeat: Annotated[
        bool, typer.Option("--repeat", help="Rows may be there more than once.")
    ] = False,
    seed: SeedOption = 0,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Mix datasets by weights into one.

    Examples:
      llmos data mix reviews=0.7 news=0.3 --name mixed
      llmos data mix web=9 books=1 --rows 1000000 --repeat --name corpus
    """
    weights = _numbers(datasets, "DATASET=WEIGHT")
    with open_client(server, home) as client:
        job = client.mix_datasets(name, weights, rows=rows, repeat=repeat, seed=seed)
        _ended(client, job, "mixing", detach, as_json)


def _numbers(given: list[str], where: str) -> dict[str, float]:
    """Return ``{name: number}`` of texts ``name=number``."""
    found: dict[str, float] = {}
    for one in given:
        name, _, number = one.strip().rpartition("=")
        try:
            value = float(number)
        except ValueError:
            value = 0.0
        if not name or not value > 0 or name in found:
            raise typer.BadParameter(f"{where}: {one!r} is no new name=number, such as train=0.8")
        found[name] = value
    return found


def _ended(client: Any, job: dict[str, Any], what: str, detach: bool, as_json: bool) -> None:
    from llmos.cli.progress import watch_job

    if not detach:
        job = watch_job(client, job["id"], what)
    if as_json:
        print_json(job)
        return
    if job["state"] != "succeeded":
        typer.echo(f"job {job['id']}: `llmos jobs logs {job['id']} -f` follows it")
        return
    for part, rows in job["result"]["parts"].items():
        typer.echo(f"{part}: {counted(rows, 'row')}")
    for ref in job["result"]["artifacts"]:
        typer.echo(f"{ref} is ready: `llmos data show {ref}`")
