"""`llmos batch`: run a file of requests, list batches, show one, cancel it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, duration, note, print_json, print_table
from llmos.errors import CancelledError, ConflictError, DataError, JobFailedError

if TYPE_CHECKING:
    from llmos.sdk.client import Client

app = typer.Typer(no_args_is_help=True)
MAX_ROW_BYTES = 16 * 2**20

BatchArgument = Annotated[
    str, typer.Argument(metavar="BATCH", help="Batch id, as `llmos batch list` shows.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="batch", rich_help_panel="Use")


@app.callback()
def batch() -> None:
    """Run files of requests at batch priority, as OpenAI's Batch API does.

    A row of such a file (a JSON object a line):
      {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"model":
      "starter-chat", "messages": [{"role": "user", "content": "Hello"}]}}

    Examples:
      llmos batch run requests.jsonl
      llmos batch list
    """


@app.command("run")
def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Requests, a JSON object a line.")],
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="PATH", help="As in every row; by default the first's."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Answers; FILE.output.jsonl by default."
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: print the batch's id.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Upload a file, run its requests, and write their answers to a file beside it.

    Ctrl-C leaves the batch running. Rows that failed go to FILE.errors.jsonl; the answers come in
    the order in which they were finished: custom_id tells them apart.

    Examples:
      llmos batch run requests.jsonl
      llmos batch run requests.jsonl --output answers.jsonl
      llmos batch run texts.jsonl --endpoint /v1/embeddings --detach
    """
    from llmos.cli.progress import transfer

    if not file.is_file():
        raise DataError(f"there is no file {file}")
    wanted = endpoint or first_endpoint(file)
    targets = {
        "output_file_id": output or file.with_suffix(".output.jsonl"),
        "error_file_id": (output or file).with_suffix(".errors.jsonl"),
    }
    for path in targets.values():
        if path.exists() and not detach:
            raise ConflictError(f"{path} exists already: move it, or name another with --output")
    with open_client(server, home) as client:
        with transfer("uploading") as on_progress:
            uploaded = client.upload_batch_file(file, on_progress)
        made = client.create_batch(uploaded["id"], wanted)
        if not detach:
            note(f"{made['id']} is begun")
            made = _watch(client, made["id"])
            for kind, path in targets.items():
                if made[kind] is not None:
                    client.download_file(made[kind], path)
    if as_json:
        print_json(made)
    elif detach:
        typer.echo(made["id"])
    else:
        for kind, path in targets.items():
            if made[kind] is not None:
                typer.echo(f"{path}: {_rows_of(made, kind)}")
    _raise_unless_whole(made, detach)


def first_endpoint(file: Path) -> str:
    """Return the url of a file's first row. Raises DataError when it has none."""
    import json

    try:
        with file.open("rb") as rows:
            line = next(
                (line for line in iter(lambda: rows.readline(MAX_ROW_BYTES), b"") if line.strip()),
                b"",
            )
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    try:
        return str(json.loads(line.decode("utf-8-sig"))["url"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"the first row of {file} is no request: it needs custom_id, method, url and body"
        ) from error


def _watch(client: Client, batch_id: str) -> dict[str, Any]:
    """Show how a batch gets on until it ends; return it."""
    from llmos.cli.progress import job_display

    shown: dict[str, Any] = {}
    try:
        with job_display("batch") as show:
            for shown in client.follow_batch(batch_id):
                counts = shown["request_counts"]
                step = counts["completed"] + counts["failed"]
                failed = f"{counts['failed']} failed" if counts["failed"] else ""
                data = {"step": step, "total": counts["total"], "message": failed}
                show({"type": "progress", "data": data})
    except KeyboardInterrupt:
        note(
            f"\nDetached; the batch goes on. `llmos batch show {batch_id}` says how it stands, "
            f"`llmos batch cancel {batch_id}` ends it."
        )
        raise
    return shown


def _rows_of(made: Mapping[str, Any], kind: str) -> str:
    counts = made["request_counts"]
    if kind == "output_file_id":
        return f"{counts['completed']} of {counts['total']} rows"
    return f"{counts['total'] - counts['completed']} rows without an answer"


def _raise_unless_whole(made: Mapping[str, Any], detach: bool) -> None:
    """Let the exit code tell a batch that did not come to its end."""
    if detach or made["status"] == "completed":
        return
    if made["status"] == "failed":
        reason = made["errors"]["data"][0]["message"] if made["errors"] else "no reason was kept"
        raise JobFailedError(f"{made['id']} failed: {reason}")
    raise CancelledError(f"{made['id']} was {made['status']} before every row was answered")


@app.command("list")
def list_batches(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=100, help="The newest N batches.")
    ] = 20,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List the newest batches, the newest first.

    Examples:
      llmos batch list
      llmos batch list --limit 5 --json
    """
    with open_client(server, home) as client:
        rows = client.batches(limit=limit)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("id", "model", "endpoint", "status", "rows", "failed", "made", "took"),
        (
            (
                one["id"],
                one["model"],
                one["endpoint"],
                one["status"],
                f"{one['request_counts']['completed']}/{one['request_counts']['total']}",
                one["request_counts"]["failed"],
                age(one["created_at"]),
                _took(one),
            )
            for one in rows
        ),
        empty="no batches yet: `llmos batch run FILE.jsonl` makes one",
    )


def _took(made: Mapping[str, Any]) -> str:
    if made["in_progress_at"] is None:
        return ""
    ended_at = next(
        (
            made[f"{end}_at"]
            for end in ("completed", "failed", "expired", "cancelled")
            if made[f"{end}_at"] is not None
        ),
        time.time(),
    )
    return duration(ended_at - made["in_progress_at"])


@app.command("show")
def show(
    batch_id: BatchArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show one batch: its state, counts and files.

    Examples:
      llmos batch show batch_0123456789abcdef0123456789abcdef
    """
    with open_client(server, home) as client:
        made = client.batch(batch_id)
    if as_json:
        print_json(made)
        return
    counts = made["request_counts"]
    facts: dict[str, object] = {
        "batch": made["id"],
        "model": made["model"],
        "endpoint": made["endpoint"],
        "status": made["status"],
        "rows": f"{counts['total']}: {counts['completed']} completed, {counts['failed']} failed",
        "made": age(made["created_at"]),
        "took": _took(made),
        "input": made["input_file_id"],
        "output": made["output_file_id"],
        "errors": made["error_file_id"],
        "job": made["job_id"],
    }
    if made["errors"]:
        facts["reason"] = made["errors"]["data"][0]["message"]
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(f"{key:<{width}}  {'-' if value in (None, '') else value}")


@app.command("cancel")
def cancel(
    batch_id: BatchArgument,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Cancel a batch; it ends within seconds, and the rows that are done stay.

    Examples:
      llmos batch cancel batch_0123456789abcdef0123456789abcdef
    """
    with open_client(server, home) as client:
        made = client.cancel_batch(batch_id)
    typer.echo(f"{batch_id} is {made['status']}")
