"""`llmos data`: datasets added, looked at, cleaned by operators, compared, exported and removed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.data_options import (
    ColumnsOption,
    DatasetArgument,
    DescriptionOption,
    EncodingOption,
    FormatOption,
    LicenseOption,
    MaxBadOption,
    NameOption,
    OnBadOption,
    OriginOption,
    ReadsOption,
    SourceArgument,
    SqlOption,
    UnitOption,
    UrlOption,
)
from llmos.cli.options import DetachOption, HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, counted, note, percent, print_json, print_table, size, visible

app = typer.Typer(no_args_is_help=True)
SHOWN_CHARS = 200
"""Of a text in a list of rows."""


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    from llmos.cli import annotate, data_run, data_shape, data_sources

    annotate.register(app)
    data_sources.register(app)
    data_run.register(app)
    data_shape.register(app)
    root.add_typer(app, name="data", rich_help_panel="Train")


@app.callback()
def data() -> None:
    """Keep datasets: add files, clean them by operators, see what changed, train on them.

    Examples:
      llmos data add news/ --name news
      llmos data run clean.yaml
      llmos data diff news clean-news
      llmos train char-gpt --set data.path=dataset:clean-news
    """


@app.command("add")
def add(
    source: SourceArgument = None,
    *,
    name: NameOption,
    sql: SqlOption = None,
    url: UrlOption = None,
    format: FormatOption = None,
    encoding: EncodingOption = None,
    unit: UnitOption = None,
    columns: ColumnsOption = None,
    on_bad: OnBadOption = None,
    max_bad: MaxBadOption = None,
    reads: ReadsOption = None,
    license: LicenseOption = None,
    origin: OriginOption = None,
    description: DescriptionOption = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Add files of this machine, or what lies elsewhere, as a new version of a dataset.

    Rows that cannot be read are passed over and kept in a table of their own, unless there are too
    many of them. A query reads a database from here: the server gets its rows alone.

    Examples:
      llmos data add reviews.csv --name reviews --license CC-BY-4.0
      llmos data add corpus/ --name corpus
      llmos data add https://example.com/rows.jsonl --name rows
      llmos data add hf://owner/name/train --name rows
      llmos data add feedback:helper --name lessons
      llmos data add --sql "SELECT text, label FROM posts" --url sqlite:///blog.db --name posts
    """
    from llmos.cli.progress import transfer, watch_job

    if (source is None) == (sql is None) or (sql and not url):
        raise typer.BadParameter("name a SOURCE, or --sql with --url")
    told = {"license": license, "source": origin, "description": description}
    ways = {"format": format, "encoding": encoding, "unit": unit, "on_bad": on_bad, "reads": reads}
    options: dict[str, Any] = {**told, **ways, "max_bad": max_bad}
    options["columns"] = columns.split(",") if columns else None
    known = {key: value for key, value in options.items() if value is not None}
    with open_client(server, home) as client:
        with transfer("uploading") as on_progress:
            if source is not None:
                job = client.add_dataset(source, name, on_progress, **known)
            else:
                job = client.add_query(sql or "", url or "", name, on_progress, **known)
        if not detach:
            job = watch_job(client, job["id"], "reading")
    report(job, as_json)


@app.command("ls")
def list_datasets(
    as_json: JsonOption = False, server: ServerOption = None, home: HomeOption = None
) -> None:
    """List the datasets, the newest first.

    Examples:
      llmos data ls
      llmos data ls --json
    """
    with open_client(server, home) as client:
        found = client.datasets()
    if as_json:
        print_json(found)
        return
    print_table(
        ("dataset", "rows", "fields", "size", "licence", "made"),
        (
            (
                one["ref"],
                f"{one['rows'] or 0:,}",
                ", ".join(name for name in one["schema"] or () if name not in ("id", "meta")),
                size(one["size_bytes"]),
                one["license"],
                age(one["created_at"]),
            )
            for one in found
        ),
        empty="there are no datasets: `llmos data add FILE --name NAME` makes one",
    )


@app.command("show")
def show(
    dataset: DatasetArgument,
    plots: Annotated[
        Path | None, typer.Option("--plots", metavar="FILE", help="Write its plots, too (PNG).")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show a dataset's card: fields, lengths, how it was made and from what.

    Examples:
      llmos data show reviews
      llmos data show reviews --plots reviews.png
      llmos data show reviews:2 --json
    """
    with open_client(server, home) as client:
        if plots is not None:
            client.dataset_plots(dataset, plots)
        found: Any = client.dataset(dataset) if as_json else client.dataset_card(dataset)
    print_json(found) if as_json else typer.echo(visible(found.rstrip()))


@app.command("head")
def head(
    dataset: DatasetArgument,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, max=100, help="How many.")] = 10,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show the first rows of a dataset.

    Examples:
      llmos data head reviews
      llmos data head reviews -n 3 --json
    """
    with open_client(server, home) as client:
        found = client.dataset_head(dataset, rows)
    if as_json:
        print_json(found)
        return
    for row in found:
        typer.secho(visible(row["id"]), dim=True)
        for name, value in row.items():
            if name != "id":
                typer.echo(f"  {visible(name)}: {shown(value)}")


@app.command("stats")
def stats(
    dataset: DatasetArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show what a dataset is like: lengths, scripts and values of each field, duplicates.

    Examples:
      llmos data stats reviews
      llmos data stats reviews --json
    """
    with open_client(server, home) as client:
        found = client.dataset(dataset)
    told = found["manifest"]["stats"]
    if as_json:
        print_json(told)
        return
    duplicates = counted(told["duplicates"], "duplicate")
    typer.echo(f"{found['ref']}: {counted(told['rows'], 'row')}, {duplicates} among them")
    print_table(
        ("field", "type", "rows", "characters", "words", "chinese", "p5", "p50", "p95", "values"),
        (
            (
                name,
                found["manifest"]["schema"][name],
                field["present"],
                field.get("characters"),
                field.get("words"),
                _chinese(field),
                *(field.get("length", {}).get(key) for key in ("p5", "p50", "p95")),
                len(field.get("values") or ()) or None,
            )
            for name, field in told["fields"].items()
        ),
        empty="it has no fields",
    )


@app.command("export")
def export(
    dataset: DatasetArgument,
    target: Annotated[
        Path,
        typer.Argument(metavar="TARGET", help="New file (.jsonl, .csv, .tsv, .txt) or folder."),
    ],
    format: Annotated[
        str | None, typer.Option("--format", help="parquet, jsonl, csv, tsv, txt; else by suffix.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Write a dataset's rows into a file, or its Parquet files and card into a folder.

    Examples:
      llmos data export reviews reviews.jsonl
      llmos data export reviews:2 reviews-2/
    """
    from llmos.cli.progress import transfer

    known = ("parquet", "jsonl", "csv", "tsv", "txt")
    if format is not None and format not in known:
        raise typer.BadParameter(f"--format must be one of {', '.join(known)}")
    with open_client(server, home) as client, transfer("fetching") as on_progress:
        client.export_dataset(dataset, target, format, on_progress)  # type: ignore[arg-type]
    print_json({"path": str(target)}) if as_json else note(f"written: {target}")


@app.command("rm")
def remove(
    dataset: DatasetArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Remove a version of a dataset (the newest, of a bare name); `llmos gc` frees the space.

    Examples:
      llmos data rm reviews:1
    """
    with open_client(server, home) as client:
        removed = client.remove_dataset(dataset)
    print_json(removed) if as_json else note(f"removed: {removed['ref']}")


def report(job: dict[str, Any], as_json: bool) -> None:
    """Print what a job made, or its number while it runs."""
    if as_json:
        print_json(job)
        return
    if job["state"] != "succeeded":
        typer.echo(f"job {job['id']}: `llmos jobs logs {job['id']} -f` follows it")
        return
    for ref in (job.get("result") or {}).get("artifacts") or ():
        rows = counted(job["result"]["rows"], "row")
        typer.echo(f"{ref} is ready: {rows}; `llmos data show {ref}`, `llmos data head {ref}`")


def _chinese(field: dict[str, Any]) -> str | None:
    """Return the share of letters that are Chinese; None where there are no letters."""
    letters = field.get("han", 0) + field.get("latin", 0)
    return percent(field["han"] / letters) if letters else None


def shown(value: Any) -> str:
    """Return a value as one short line that a terminal shows and does not obey."""
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split())
    return visible(line if len(line) <= SHOWN_CHARS else line[:SHOWN_CHARS] + "…")
