"""`llmos data annotate`: what annotators do: get items, label them one by one, look back."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, note, print_json, print_table, visible

app = typer.Typer(no_args_is_help=True)
TaskArgument = Annotated[
    int, typer.Argument(metavar="N", help="Task, as `annotate ls` numbers it.")
]
PlaceArgument = Annotated[int, typer.Argument(metavar="PLACE", help="Item, as `next` numbers it.")]
ValueArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="LABEL",
        help="A label; several: A,B; spans: 0-5=NAME,9-11=CITY or none; a number; a text.",
    ),
]
SkipOption = Annotated[bool, typer.Option("--skip", help="Leave it to others.")]
FlagOption = Annotated[
    str | None, typer.Option("--flag", metavar="TEXT", help="What is wrong with the item.")
]
SHOWN_CHARS = 2000
"""Of a field of an item."""


def register(data: typer.Typer) -> None:
    """Add this module's commands to `llmos data`."""
    from llmos.cli import annotate_runs

    annotate_runs.register(app)
    data.add_typer(app, name="annotate")


@app.callback()
def annotate() -> None:
    """Have people label the rows of a dataset: each item goes to as many as are wanted, what they
    say is compared, and becomes a dataset that recipes train on.

    Examples:
      llmos data annotate new reviews --field review --labels good,bad --annotators bob,eve
      llmos data annotate work 1
      llmos data annotate agreement 1
      llmos data annotate export 1 judged-reviews
    """


@app.command("ls")
def list_tasks(
    as_json: JsonOption = False, server: ServerOption = None, home: HomeOption = None
) -> None:
    """List the tasks that you run or annotate, the newest first.

    Examples:
      llmos data annotate ls
    """
    with open_client(server, home) as client:
        found = client.annotations()
    if as_json:
        print_json(found)
        return
    print_table(
        ("n", "name", "kind", "labels", "state", "owner", "made"),
        (
            (
                one["id"],
                one["name"],
                one["scheme"]["kind"],
                ", ".join(one["scheme"]["labels"][:5]),
                one["state"],
                one["owner"],
                age(one["created_at"]),
            )
            for one in found
        ),
        empty="there are none: `llmos data annotate new DATASET --field F --labels A,B` makes one",
    )


@app.command("next")
def next_item(
    task: TaskArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Get an item to label: it is yours for a while, and is shown again until it is answered.

    Examples:
      llmos data annotate next 1
    """
    with open_client(server, home) as client:
        scheme, item = client.annotation(task)["scheme"], client.next_item(task)
    if as_json:
        print_json(item)
    elif item is None:
        note("there is nothing to label for you now")
    else:
        show_item(ordered(scheme, task, item["place"]), item)


@app.command("label")
def label(
    task: TaskArgument,
    place: PlaceArgument,
    value: ValueArgument = None,
    skip: SkipOption = False,
    flag: FlagOption = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Label an item that you were given, or skip it; once more to change that.

    Examples:
      llmos data annotate label 1 7 good
      llmos data annotate label 2 0 0-5=NAME,9-11=CITY
      llmos data annotate label 1 8 --skip --flag "two reviews in one"
    """
    if skip == (value is not None):
        raise typer.BadParameter("give a label or --skip, one of the two")
    with open_client(server, home) as client:
        scheme = ordered(client.annotation(task)["scheme"], task, place)
        given = None if value is None else parsed(scheme, value)
        made = client.label_item(task, place, given, skip=skip, flag=flag)
    if as_json:
        print_json(made)
    else:
        typer.echo(f"item {place}: {'skipped' if skip else 'labelled'}, label {made['id']}")


@app.command("work")
def work(
    task: TaskArgument,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Label one item after the other, until there is none or you say q.

    An empty line takes what a model suggests; s skips, f flags and skips. Where s, f or q is itself
    a label, write =s.

    Examples:
      llmos data annotate work 1
    """
    with open_client(server, home) as client:
        found = client.annotation(task)
        done = 0
        if found["instructions"]:
            typer.echo(visible(found["instructions"]))
        while (item := client.next_item(task)) is not None:
            typer.echo("")
            scheme = ordered(found["scheme"], task, item["place"])
            show_item(scheme, item)
            said = _answered(scheme, item)
            if said is None:
                break
            client.label_item(task, item["place"], **said)
            done += 1
        own = client.annotation(task)["own"]
    left = "" if item is None else f", {own['left']} left"
    typer.echo(f"\n{done} answered; yours: {counts_of(own)}{left}")


@app.command("consent")
def consent(
    task: TaskArgument,
    withdraw: Annotated[
        bool, typer.Option("--withdraw", help="Agree no more: your labels count no more.")
    ] = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Agree to what a task asks annotators to (`annotate show` says what), or agree no more.

    Examples:
      llmos data annotate consent 1
      llmos data annotate consent 1 --withdraw
    """
    with open_client(server, home) as client:
        client.consent_to_annotation(task, not withdraw)
    note("withdrawn: your labels there count no more" if withdraw else "agreed")


@app.command("labels")
def list_labels(
    task: TaskArgument,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many to list.")] = 20,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List labels, all there ever were, the newest first: yours, or all of a task that you run.

    Examples:
      llmos data annotate labels 1
    """
    with open_client(server, home) as client:
        found = client.labels(task, limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ("label", "item", "annotator", "said", "flag", "suggested by", "when"),
        (
            (
                one["id"],
                one["place"],
                one["annotator"] + (" (final)" if one["role"] == "final" else ""),
                "skipped" if one["skipped"] else _short(_text(one["value"])),
                one["flag"],
                one["suggested_by"],
                age(one["at"]),
            )
            for one in found
        ),
        empty="there are no labels",
    )


def ordered(scheme: dict[str, Any], task: int, place: int) -> dict[str, Any]:
    """Return a scheme for one item, with ``order``, in which its fields are shown."""
    from llmos.data.annotation.scheme import order_of

    return {**scheme, "order": order_of(scheme["kind"], scheme["fields"], task, place)}


def counts_of(own: dict[str, Any]) -> str:
    """Return how far an annotator is, in words."""
    return f"{own['labelled']} labelled, {own['skipped']} skipped"


def show_item(scheme: dict[str, Any], item: dict[str, Any]) -> None:
    """Print an item and what may be said of it, by a scheme that is `ordered`."""
    typer.secho(f"item {item['place']}", bold=True)
    order = scheme["order"]
    for name in (*(name for name in item["shown"] if name not in order), *order):
        value = item["shown"][name]
        typer.echo(visible(f"  {name}: {_text(value)[:SHOWN_CHARS]}"))
    suggestion = item.get("suggestion")
    if suggestion is not None:
        sure = suggestion["confidence"]
        how = "" if sure is None else f", {sure:.0%} sure"
        said = told(scheme, suggestion["value"])
        typer.secho(visible(f"  {suggestion['model']} says: {said}{how}"), dim=True)
    typer.echo(visible(f"  {choices(scheme)}"))


def choices(scheme: dict[str, Any]) -> str:
    """Return what may be said of an item, in one line."""
    labels = [f"{number} {label}" for number, label in enumerate(scheme["labels"], 1)]
    match scheme["kind"]:
        case "classification" if scheme["several"]:
            return f"any of: {', '.join(labels)}; as 1,2 or none"
        case "classification":
            return f"one of: {', '.join(labels)}"
        case "spans":
            return f"spans in {scheme['fields'][0]}: {', '.join(labels)}; as 0-5=1,9-11=2 or none"
        case "pairs":
            first, second = scheme["order"]
            return f"the better: 1 {first}, 2 {second}" + (", 0 a tie" if scheme["ties"] else "")
        case "rating":
            return f"a number from {scheme['least']} to {scheme['most']}"
        case _:
            return "a text"


def parsed(scheme: dict[str, Any], text: str) -> Any:
    """Return what was typed as a label: labels by name or number, "none" for an empty list.

    Raises:
        typer.BadParameter: it cannot be read as one.
    """
    match scheme["kind"]:
        case "classification" if scheme["several"]:
            return [] if text == "none" else [_label(scheme, one) for one in text.split(",")]
        case "classification":
            return _label(scheme, text)
        case "spans":
            return [] if text == "none" else [_span(scheme, one) for one in text.split(",")]
        case "pairs":
            return _better(scheme, text)
        case "rating":
            if not text.removeprefix("-").isdecimal():
                raise typer.BadParameter(f"{text!r} is no whole number")
            return int(text)
        case _:
            return text


def told(scheme: dict[str, Any], value: Any) -> str:
    """Return a label as one types it."""
    if isinstance(value, list) and scheme["kind"] == "spans":
        spans = [f"{one['start']}-{one['end']}={one['label']}" for one in value]
        return ",".join(spans) or "none"
    if scheme["kind"] == "pairs":
        return _numbers(scheme)[value]
    return ",".join(value) or "none" if isinstance(value, list) else str(value)


def _better(scheme: dict[str, Any], text: str) -> str:
    typed = {number: value for value, number in _numbers(scheme).items()}
    typed |= {"tie": "tie", **dict(zip(scheme["fields"], ("first", "second"), strict=True))}
    if text.strip() not in typed:
        raise typer.BadParameter(f"{text[:60]!r} is not {choices(scheme)}")
    return typed[text.strip()]


def _numbers(scheme: dict[str, Any]) -> dict[str, str]:
    """Return what is typed for each label of a pair: answers are numbered as they are shown."""
    first, second = (str(1 + scheme["order"].index(name)) for name in scheme["fields"])
    return {"first": first, "second": second, "tie": "0"}


def _answered(scheme: dict[str, Any], item: dict[str, Any]) -> dict[str, Any] | None:
    """Ask until there is an answer; None: that is all."""
    suggestion = item.get("suggestion")
    while True:
        try:
            line = typer.prompt("  label (s skip, f flag, q quit)", default="", show_default=False)
        except typer.Abort:
            return None
        if line == "q":
            return None
        if line == "s":
            return {"skip": True}
        if line == "f":
            return {"skip": True, "flag": typer.prompt("  what is wrong")}
        if not line:
            if suggestion is not None:
                return {"value": suggestion["value"]}
            continue
        try:
            return {"value": parsed(scheme, line.removeprefix("="))}
        except typer.BadParameter as error:
            note(f"  {error.format_message()}")


def _label(scheme: dict[str, Any], text: str) -> str:
    known: list[str] = scheme["labels"]
    text = text.strip()
    if text in known:
        return text
    if text.isdecimal() and 1 <= int(text) <= len(known):
        return known[int(text) - 1]
    raise typer.BadParameter(f"{text[:60]!r} is not {choices(scheme)}")


def _span(scheme: dict[str, Any], text: str) -> dict[str, Any]:
    ends, _, label = text.strip().partition("=")
    start, _, end = ends.partition("-")
    if not (start.isdecimal() and end.isdecimal() and label):
        raise typer.BadParameter(f"{text[:60]!r} is no span: write START-END=LABEL, as 0-5=NAME")
    return {"start": int(start), "end": int(end), "label": _label(scheme, label)}


def _text(value: Any) -> str:
    import json

    if isinstance(value, list) and all(isinstance(one, dict) and "role" in one for one in value):
        return " / ".join(f"{one.get('role')}: {one.get('content')}" for one in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
