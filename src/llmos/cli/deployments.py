"""Commands that put versions to use: deploy, promote, rollback, and the deployments there are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ModelArgument, ServerOption
from llmos.cli.output import age, counted, note, print_json, print_table

PANEL = "Deploy"
app = typer.Typer()

DeploymentArgument = Annotated[
    str, typer.Argument(metavar="NAME@ALIAS", help="As `llmos deployments` shows it.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (deploy, promote, rollback):
        root.command(command.__name__, rich_help_panel=PANEL)(command)
    root.add_typer(app, name="deployments", rich_help_panel=PANEL)


def deploy(
    model: ModelArgument,
    alias: Annotated[
        str, typer.Option("--as", metavar="ALIAS", help="Clients ask for NAME@ALIAS.")
    ] = "production",
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="TEXT", help="Must hold, now and later (repeatable)."),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option("--canary", metavar="PERCENT", help="Only so much of the requests first."),
    ] = None,
    min_requests: Annotated[
        int | None, typer.Option("--min-requests", help="Of a candidate, before it is judged (50).")
    ] = None,
    max_error_rate: Annotated[
        float | None,
        typer.Option("--max-error-rate", help="A candidate's; above, it is taken back (0.02)."),
    ] = None,
    max_latency_ratio: Annotated[
        float | None,
        typer.Option("--max-latency-ratio", help="Of 95th percentiles; likewise (1.5)."),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Let NAME@ALIAS mean a version, once it passes the gate; requests under way are not touched.

    A gate holds a metric of the version (`llmos show MODEL`) against a number or against the
    version there is now. With --canary the version is tried by a part of the requests, and taken
    back by itself when it fails more often or is slower.

    Examples:
      llmos deploy my-model:2 --gate "test/accuracy >= 0.9"
      llmos deploy my-model:3 --as production --gate "test/f1 >= current - 0.01"
      llmos deploy my-model:3 --canary 10%
    """
    rules = {
        "min_requests": min_requests,
        "max_error_rate": max_error_rate,
        "max_latency_ratio": max_latency_ratio,
    }
    given = {name: value for name, value in rules.items() if value is not None}
    with open_client(server, home) as client:
        made = client.deploy(
            model, alias, gates=gate, weight=None if canary is None else _share(canary), **given
        )
    if as_json:
        print_json(made)
        return
    _print_checks(made)
    if made["candidate"]:
        share = f"{100 * made['weight']:g}%"
        typer.echo(f"{made['ref']} is {made['model']}; {made['candidate']} gets {share} of it")
        note(f"`llmos promote {made['ref']}` makes it all, `llmos rollback {made['ref']}` none.")
    else:
        typer.echo(f"{made['ref']} is {made['model']}")


def promote(
    deployment: DeploymentArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Let NAME@ALIAS mean its candidate, if that passes the gate.

    Examples:
      llmos promote my-model@production
    """
    with open_client(server, home) as client:
        made = client.promote(deployment)
    if as_json:
        print_json(made)
        return
    _print_checks(made)
    typer.echo(f"{made['ref']} is {made['model']}")


def rollback(
    deployment: DeploymentArgument,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the history.")] = "",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Take a candidate back; where there is none, go back to the version before.

    Examples:
      llmos rollback my-model@production --reason "wrong dates"
    """
    with open_client(server, home) as client:
        made = client.rollback(deployment, reason)
    if as_json:
        print_json(made)
        return
    typer.echo(f"{made['ref']} is {made['model']}")


@app.callback(invoke_without_command=True)
def list_deployments(
    context: typer.Context,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List deployments; show one with its history, or let one be an alias like any other.

    Examples:
      llmos deployments
      llmos deployments show my-model@production
      llmos deployments rm my-model@production
    """
    if context.invoked_subcommand is not None:
        return
    with open_client(server, home) as client:
        rows = client.deployments()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("deployment", "means", "candidate", "gates", "moved"),
        (
            (
                row["ref"],
                row["model"],
                f"{row['candidate']} {100 * row['weight']:g}%" if row["candidate"] else "",
                "; ".join(row["gates"]),
                age(row["updated_at"]),
            )
            for row in rows
        ),
        empty="no deployments yet: `llmos deploy MODEL` makes one",
    )


@app.command("show")
def show(
    deployment: DeploymentArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show one deployment and what happened to it.

    Examples:
      llmos deployments show my-model@production
    """
    with open_client(server, home) as client:
        found = client.deployment(deployment)
    if as_json:
        print_json(found)
        return
    typer.echo(f"{found['ref']} is {found['model']}")
    if found["candidate"]:
        typer.echo(f"candidate {found['candidate']} gets {100 * found['weight']:g}%")
        for model in (found["model"], found["candidate"]):
            typer.echo(f"seen {model}: {_seen(found['seen'].get(model))}")
    for gate in found["gates"]:
        typer.echo(f"gate {gate}")
    print_table(
        ("when", "what", "from", "to", "by", "why"),
        (
            (age(e["at"]), e["action"], e["from_number"], e["to_number"], e["actor"], e["reason"])
            for e in found["history"]
        ),
        empty="",
    )


@app.command("rm")
def remove(
    deployment: DeploymentArgument, server: ServerOption = None, home: HomeOption = None
) -> None:
    """Let NAME@ALIAS be an alias like any other; it goes on meaning what it means.

    Examples:
      llmos deployments rm my-model@production
    """
    with open_client(server, home) as client:
        removed = client.remove_deployment(deployment)
    typer.echo(f"{removed['ref']} is an alias of {removed['model']} now, without a gate")


def _share(text: str) -> float:
    """Return 0.1 for ``10%`` and for ``10``."""
    try:
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a percentage, as 10% is") from None


def _seen(sample: dict[str, Any] | None) -> str:
    if sample is None:
        return "no requests yet"
    text = f"{counted(sample['requests'], 'request')}, {sample['failures']} failed"
    if sample["latency_p95_s"] is not None:
        text += f", 95% of answers within {sample['latency_p95_s']:.2f} s"
    return text


def _print_checks(made: dict[str, Any]) -> None:
    for check in made["checks"]:
        bound = check["bound"]
        held = ", and no version to compare with" if bound is None else f" against {bound:g}"
        note(f"passed: {check['gate']} ({check['value']:g}{held})")
