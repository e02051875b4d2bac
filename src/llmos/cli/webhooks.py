"""Commands for webhooks: have events sent to an address, see what was sent, stop it."""

from __future__ import annotations

from typing import Annotated

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, note, print_json, print_table

app = typer.Typer(no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="webhooks", rich_help_panel="Server")


@app.callback()
def webhooks() -> None:
    """Have events of your jobs and pipelines sent to a web address.

    Examples:
      llmos webhooks add https://ci.example.com/llmos --event job.failed
      llmos webhooks list
      llmos webhooks deliveries
    """


@app.command("add")
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="A public http or https address.")],
    event: Annotated[
        list[str] | None,
        typer.Option("--event", metavar="EVENT", help="Only this, e.g. job.failed (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Have events sent to an address, signed. The secret that signs them is shown this once.

    Events: job.queued, job.started, job.succeeded, job.failed, job.cancelled, run.started,
    run.succeeded, run.failed, run.cancelled.

    Examples:
      llmos webhooks add https://ci.example.com/llmos
      llmos webhooks add https://ci.example.com/llmos --event job.succeeded --event job.failed
    """
    with open_client(server, home) as client:
        made = client.add_webhook(url, event or None)
    if as_json:
        print_json(made)
        return
    note(f"Webhook {made['id']}. Keep its secret now: it is not shown again.")
    typer.echo(made["secret"])


@app.command("list")
def list_webhooks(
    as_json: JsonOption = False, server: ServerOption = None, home: HomeOption = None
) -> None:
    """List webhooks; their secrets are never shown again.

    Examples:
      llmos webhooks list
    """
    with open_client(server, home) as client:
        rows = client.webhooks()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("n", "url", "made", "events"),
        ((row["id"], row["url"], age(row["created_at"]), " ".join(row["events"])) for row in rows),
        empty="no webhooks yet: `llmos webhooks add URL` makes one",
    )


@app.command("deliveries")
def deliveries(
    webhook: Annotated[
        int | None, typer.Option("--webhook", metavar="N", min=1, help="Of this webhook only.")
    ] = None,
    state: Annotated[
        str | None, typer.Option("--state", metavar="STATE", help="pending, delivered or dead.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="The newest N.")
    ] = 100,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List what was sent to webhooks, or is to be, the newest first; dead is what was given up.

    Examples:
      llmos webhooks deliveries
      llmos webhooks deliveries --state dead
    """
    with open_client(server, home) as client:
        rows = client.deliveries(webhook, state, limit)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("n", "webhook", "event", "about", "state", "attempts", "made", "trouble"),
        (
            (
                row["id"],
                row["webhook_id"],
                row["event"],
                row["payload"]["data"].get("id"),
                row["state"],
                row["attempt"],
                age(row["created_at"]),
                row["error"],
            )
            for row in rows
        ),
        empty=f"nothing is {state}" if state else "nothing was sent yet",
    )


@app.command("rm")
def remove(
    number: Annotated[
        int, typer.Argument(metavar="N", help="Webhook number, as `llmos webhooks list` shows.")
    ],
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Send nothing more to a webhook, and forget what was sent to it.

    Examples:
      llmos webhooks rm 1
    """
    with open_client(server, home) as client:
        client.remove_webhook(number)
    typer.echo(f"webhook {number} is removed")
