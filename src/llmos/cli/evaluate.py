"""`llmos evaluate`: measure a model on a dataset, as it is served."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ModelArgument, ServerOption
from llmos.cli.output import counted, print_json, print_metrics

PANEL = "Deploy"


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("evaluate", rich_help_panel=PANEL)(evaluate)


def evaluate(
    model: ModelArgument,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Rows: .jsonl, .tsv, .csv; or a .txt to read.")
    ],
    task: Annotated[
        str | None, typer.Option("--task", help="Of a model of several; the first by default.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Its name for gates; the file's by default.")
    ] = None,
    rows: Annotated[int | None, typer.Option("--rows", min=1, help="Only the first N.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option("--field", metavar="OURS=THEIRS", help="As text=sentence (repeatable)."),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: print the job's number.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Measure a model on a file, by its task: accuracy, F1, BLEU, perplexity, recall, correlation.

    Rows have text and label, entities or score, source and target, question, context and answer,
    anchor and positive, or text alone: docs/deployments.md has them all. What was measured stays
    with the version: `llmos deploy --gate "DATASET/accuracy >= 0.9"` looks there.

    Examples:
      llmos evaluate sentiment reviews.tsv
      llmos evaluate my-model:3 test.jsonl --dataset news --rows 500
      llmos evaluate my-model story.txt
      llmos evaluate my-reader names.jsonl --task entities
      llmos evaluate my-vectors questions-words.txt
    """
    from llmos.cli.progress import watch_job

    fields = dict(_pair(text) for text in field or ())
    with open_client(server, home) as client:
        job = client.evaluate(model, file, task=task, dataset=dataset, rows=rows, fields=fields)
        if not detach:
            job = watch_job(client, job["id"], "evaluating")
    if as_json:
        print_json(job)
    elif job["state"] == "succeeded":
        _report(job)
    else:
        typer.echo(f"job {job['id']}: `llmos jobs logs {job['id']} -f` follows it")


def _pair(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not OURS=THEIRS, as text=sentence is")
    return ours, theirs


def _report(job: Mapping[str, Any]) -> None:
    result = job["result"]
    rows = counted(result["rows"], "row")
    typer.echo(f"{job['params']['model']} on {result['dataset']} ({rows})")
    print_metrics(result["metrics"])
