"""Commands for what owners used and what they may use: usage, quotas."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import count, print_json, print_table, size
from llmos.errors import InvalidRequestError

app = typer.Typer()
DAY_S = 86_400
NO_LIMIT = "none"

OwnerArgument = Annotated[
    str, typer.Argument(metavar="OWNER", help="Owner of keys; '*' is all without their own quota.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.command("usage", rich_help_panel="Server")(usage)
    root.add_typer(app, name="quotas", rich_help_panel="Server")


# -- usage -----------------------------------------------------------------------------------------


def usage(
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, max=10_000, help="The last N days (UTC).")
    ] = 7,
    owner: Annotated[
        str | None, typer.Option("--owner", metavar="OWNER", help="Of this owner alone.")
    ] = None,
    by: Annotated[
        str, typer.Option("--by", metavar="WHAT", help="Told apart by day, owner, model.")
    ] = "day,owner,model",
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV instead of a table.")] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show what was used: requests, tokens, compute seconds and, where the machine tells, energy.

    Examples:
      llmos usage
      llmos usage --days 30 --by owner
      llmos usage --days 365 --csv > usage.csv
    """
    first = time.strftime("%Y-%m-%d", time.gmtime(time.time() - (days - 1) * DAY_S))
    groups = [name.strip() for name in by.split(",") if name.strip()]
    with open_client(server, home) as client:
        if as_csv:
            typer.echo(client.usage_csv(first, owner=owner, group_by=groups), nl=False)
            return
        rows = client.usage(first, owner=owner, group_by=groups)
    if as_json:
        print_json(rows)
        return
    print_table(
        (*groups, "requests", "failed", "read", "written", "jobs", "compute", "energy", "J/1k"),
        ([*(_group(row, name) for name in groups), *_numbers(row)] for row in rows),
        empty=f"nothing was used in the last {days} days",
    )


def _group(row: Mapping[str, Any], name: str) -> str:
    return str(row.get(name) or "(jobs)")


def _numbers(row: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        row["requests"],
        row["failed"],
        count(row["prompt_tokens"]),
        count(row["completion_tokens"]),
        row["jobs"],
        f"{row['compute_s']:.1f} s",
        _joules(row["joules"]),
        None if row["joules_per_1k_tokens"] is None else f"{row['joules_per_1k_tokens']:.3g}",
    )


def _joules(joules: float | None) -> str | None:
    if joules is None:
        return None
    return f"{joules / 3.6e6:.2f} kWh" if joules >= 3.6e5 else f"{joules:.0f} J"


# -- quotas ----------------------------------------------------------------------------------------


@app.callback(invoke_without_command=True)
def list_quotas(
    context: typer.Context,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List quotas, one's own without an admin's key; show, set and remove them.

    Examples:
      llmos quotas
      llmos quotas set alice --tokens-per-day 100000 --requests-per-s 2
      llmos quotas set '*' --concurrency 4
      llmos quotas set alice --tokens-per-day none
      llmos quotas rm alice
    """
    if context.invoked_subcommand is not None:
        context.obj = (server, home)
        return
    with open_client(server, home) as client:
        rows = client.quotas()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("owner", "requests/s", "at once", "tokens/day", "compute/day", "stored", "queue"),
        ((row["owner"], *_limits(row["limits"])) for row in rows),
        empty="no quotas: everybody may use as much as there is",
    )


def _limits(limits: Mapping[str, Any]) -> tuple[object, ...]:
    compute_s = limits["compute_s_per_day"]
    return (
        limits["requests_per_s"],
        limits["concurrency"],
        limits["tokens_per_day"],
        None if compute_s is None else f"{compute_s:g} s",
        None if limits["stored_bytes"] is None else size(limits["stored_bytes"]),
        limits["queue_depth"],
    )


@app.command("show")
def show(
    context: typer.Context,
    owner: OwnerArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show what an owner may use, and what it uses now or used today (UTC).

    Examples:
      llmos quotas show alice
    """
    with _client(context, server, home) as client:
        quota = client.quota(owner)
    if as_json:
        print_json(quota)
        return
    used = quota.get("used", {})
    print_table(
        ("limit", "of", "used"),
        ((name, limit, _rounded(used.get(name))) for name, limit in quota["limits"].items()),
        empty="there are no limits",
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)


@app.command("set")
def set_quota(
    context: typer.Context,
    owner: OwnerArgument,
    requests_per_s: Annotated[
        str | None, typer.Option("--requests-per-s", metavar="N", help="Requests to models.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", metavar="N", help="Requests under way at once.")
    ] = None,
    tokens_per_day: Annotated[
        str | None, typer.Option("--tokens-per-day", metavar="N", help="Read and written (UTC).")
    ] = None,
    compute_s_per_day: Annotated[
        str | None, typer.Option("--compute-s-per-day", metavar="S", help="Of models and jobs.")
    ] = None,
    stored_bytes: Annotated[
        str | None, typer.Option("--stored-bytes", metavar="N", help="Of versions and uploads.")
    ] = None,
    queue_depth: Annotated[
        str | None, typer.Option("--queue-depth", metavar="N", help="Jobs that wait.")
    ] = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Change an owner's limits; those not named stay, 'none' takes one away. For admins.

    Examples:
      llmos quotas set alice --tokens-per-day 100000 --requests-per-s 2
      llmos quotas set '*' --concurrency 4 --queue-depth 20
      llmos quotas set alice --tokens-per-day none
    """
    given = {
        "requests_per_s": requests_per_s,
        "concurrency": concurrency,
        "tokens_per_day": tokens_per_day,
        "compute_s_per_day": compute_s_per_day,
        "stored_bytes": stored_bytes,
        "queue_depth": queue_depth,
    }
    changes = {name: _number(name, text) for name, text in given.items() if text is not None}
    if not changes:
        raise InvalidRequestError("no limit is given: see `llmos quotas set --help`")
    with _client(context, server, home) as client:
        now = client.quota(owner)
        own = now["limits"] if now["set_for"] == owner else {}
        limits = client.set_quota(owner, own | changes)["limits"]
    shown = [f"{name} {limit}" for name, limit in limits.items() if limit is not None]
    typer.echo(f"{owner}: {', '.join(shown) or 'no limits'}")


def _number(name: str, text: str) -> float | None:
    """Return a limit as it was given. Raises InvalidRequestError."""
    if text.lower() == NO_LIMIT:
        return None
    for kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    option = name.replace("_", "-")
    raise InvalidRequestError(f"--{option} must be a number, or none for no limit, not {text!r}")


@app.command("rm")
def remove(
    context: typer.Context,
    owner: OwnerArgument,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Take an owner's own quota away; that of '*' holds for it again. For admins.

    Examples:
      llmos quotas rm alice
    """
    with _client(context, server, home) as client:
        client.remove_quota(owner)
    typer.echo(f"{owner} has no quota of its own any more")


def _client(context: typer.Context, server: str | None, home: Any) -> Any:
    """Return the client; options given before the subcommand count where it has none of its own."""
    outer_server, outer_home = context.parent.obj if context.parent else (None, None)
    return open_client(server or outer_server, home or outer_home)
