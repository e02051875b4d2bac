"""Commands about which model answers: routes, and why a model is chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, note, print_json, print_table

app = typer.Typer()

TaskOption = Annotated[
    str, typer.Option("--task", metavar="TASK", help="What is asked: chat, translate, classify …")
]
NameOption = Annotated[
    str, typer.Option("--model", metavar="NAME", help="auto, a task, a route or a model.")
]
LatencyOption = Annotated[
    float | None, typer.Option("--max-latency-ms", metavar="MS", help="Until the last token.")
]
QualityOption = Annotated[
    float | None, typer.Option("--min-quality", metavar="Q", help="Measured, from 0 to 1.")
]
CostOption = Annotated[
    float | None, typer.Option("--max-cost", metavar="S", help="Compute-seconds.")
]
FromOption = Annotated[
    str | None, typer.Option("--from", metavar="LANG", help="Of a translation, e.g. en.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="LANG", help="Of a translation, e.g. zh.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="route", rich_help_panel="Models")


@app.callback(invoke_without_command=True)
def route(
    context: typer.Context,
    explain_text: Annotated[
        str | None,
        typer.Option("--explain", metavar="TEXT", help="Say which model would answer, and why."),
    ] = None,
    task: TaskOption = "chat",
    model: NameOption = "auto",
    max_latency_ms: LatencyOption = None,
    min_quality: QualityOption = None,
    max_cost: CostOption = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Choose which models answer a name, and see why one is chosen for "auto" or a task.

    Examples:
      llmos route
      llmos route set support --to small=9 --to big=1 --fallback small
      llmos route --explain "What is DNA?"
      llmos route explain "Hello" --task translate --from en --to zh --max-latency-ms 500
      llmos route rm support
    """
    if context.invoked_subcommand is not None:
        if explain_text is not None:
            raise typer.BadParameter("--explain stands alone: leave the subcommand out")
        context.obj = (server, home)
        return
    if explain_text is None:
        _list(server, home, as_json)
        return
    limits = {"max_latency_ms": max_latency_ms, "min_quality": min_quality, "max_cost": max_cost}
    _explain(server, home, as_json, explain_text, model, task, limits)


@app.command("list")
def list_routes(
    context: typer.Context,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List the routes.

    Examples:
      llmos route list
      llmos route list --json
    """
    _list(*_place(context, server, home), as_json)


@app.command("set")
def set_route(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What clients ask for.")],
    to: Annotated[
        list[str],
        typer.Option(
            "--to",
            metavar="MODEL=WEIGHT",
            help="A model and its share; 1 if left out (repeatable).",
        ),
    ],
    fallback: Annotated[
        list[str] | None,
        typer.Option(
            "--fallback", metavar="MODEL", help="Asked in order when a model fails (repeatable)."
        ),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Let a name mean one model or several, in proportion to their weights.

    Examples:
      llmos route set support --to my-model:3
      llmos route set support --to my-model:3=95 --to my-model:4=5 --fallback my-model:3
    """
    targets: dict[str, float] = {}
    for given in to:
        model, weight = _target(given)
        if model in targets:
            raise typer.BadParameter(f"--to names {model} twice")
        targets[model] = weight
    with open_client(*_place(context, server, home)) as client:
        made = client.set_route(name, targets, fallback or ())
    if as_json:
        print_json(made)
    else:
        typer.echo(f"{name} now means {_targets(made)}{_else(made)}")


@app.command("rm")
def remove(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The route's name.")],
    owner: Annotated[
        str | None, typer.Option(metavar="OWNER", help="Whose it is, if not your own.")
    ] = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Remove a route.

    Examples:
      llmos route rm support
      llmos route rm support --owner alice
    """
    with open_client(*_place(context, server, home)) as client:
        client.remove_route(name, owner)
    typer.echo(f"{name} is removed")


@app.command("explain")
def explain(
    context: typer.Context,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What would be asked.")],
    task: TaskOption = "chat",
    model: NameOption = "auto",
    max_latency_ms: LatencyOption = None,
    min_quality: QualityOption = None,
    max_cost: CostOption = None,
    source_lang: FromOption = None,
    target_lang: ToOption = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Say which model would answer a text, and why, without asking it.

    Examples:
      llmos route explain "What is DNA?" --task chat --max-latency-ms 2000
      llmos route explain "Hello" --task translate --from en --to zh
    """
    limits: dict[str, Any] = {
        "max_latency_ms": max_latency_ms,
        "min_quality": min_quality,
        "max_cost": max_cost,
        "source_lang": source_lang,
        "target_lang": target_lang,
    }
    _explain(*_place(context, server, home), as_json, text, model, task, limits)


def _place(context: typer.Context, server: str | None, home: Any) -> tuple[str | None, Any]:
    """Return where the server is; options before the subcommand count where it has none."""
    outer_server, outer_home = (context.parent and context.parent.obj) or (None, None)
    return server or outer_server, home or outer_home


def _list(server: str | None, home: Any, as_json: bool) -> None:
    with open_client(server, home) as client:
        rows = client.routes()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("name", "models", "fallbacks", "owner", "changed"),
        (
            (
                row["name"],
                _targets(row),
                " ".join(row["fallbacks"]),
                row["owner"],
                age(row["updated_at"]),
            )
            for row in rows
        ),
        empty="no routes: `llmos route set NAME --to MODEL=WEIGHT` makes one",
    )


def _explain(
    server: str | None,
    home: Any,
    as_json: bool,
    text: str,
    model: str,
    task: str,
    limits: Mapping[str, Any],
) -> None:
    with open_client(server, home) as client:
        why = client.explain_route(text, model, task, **limits)
    if as_json:
        print_json(why)
        return
    note(f"{why['model']} would answer ({_RULES[why['rule']]})")
    print_table(
        ("model", "score", "latency", "quality", "cost", "excluded by"),
        (
            (
                one["model"],
                "" if one["excluded"] else f"{one['score']:.3f}",
                "" if one["latency_ms"] is None else f"{one['latency_ms']:.0f} ms",
                f"{one['quality']:.2f}{'' if one['measured'] else ' ?'}",
                "" if one["cost"] is None else f"{one['cost']:.3g} s",
                one["excluded"],
            )
            for one in sorted(why["candidates"], key=lambda one: -one["score"])
        ),
        empty="",
    )


_RULES = {
    "measured": "the best by what was measured",
    "weights": "by weights",
    "fixed": "the only one",
    "named": "asked for by name",
}


def _target(given: str) -> tuple[str, float]:
    model, equals, share = given.rpartition("=")
    if not equals:
        return given, 1.0
    try:
        return model, float(share)
    except ValueError:
        raise typer.BadParameter(f"{share!r} in --to {given} is not a number") from None


def _targets(row: Mapping[str, Any]) -> str:
    return " ".join(f"{one['model']}={one['weight']:g}" for one in row["targets"])


def _else(row: Mapping[str, Any]) -> str:
    return f", else {', '.join(row['fallbacks'])}" if row["fallbacks"] else ""
