"""`llmos data annotate`: what those do who run a task: make it, compare, review, export."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli.annotate import (
    PlaceArgument,
    TaskArgument,
    counts_of,
    ordered,
    parsed,
    show_item,
    told,
)
from llmos.cli.connection import open_client
from llmos.cli.data import report
from llmos.cli.options import DetachOption, HomeOption, JsonOption, ServerOption
from llmos.cli.output import counted, note, print_json, print_table, visible

InstructionsOption = Annotated[str | None, typer.Option(help="What annotators read.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to `llmos data annotate`."""
    app.command("new")(new)
    app.command("show")(show)
    app.command("change")(change)
    app.command("suggest")(suggest)
    app.command("agreement")(agreement)
    app.command("review")(review)
    app.command("final")(final)
    app.command("export")(export)
    app.command("rm")(remove)


FieldOption = Annotated[
    list[str], typer.Option("--field", help="Shown; repeatable. Of pairs the two answers.")
]
KindOption = Annotated[
    str, typer.Option("--kind", help="classification, spans, pairs, rating, text.")
]
LabelsOption = Annotated[
    str | None, typer.Option("--labels", metavar="A,B,…", help="To choose from.")
]
ScaleOption = Annotated[
    str | None, typer.Option("--scale", metavar="1-5", help="Of ratings, from least to most.")
]
PromptOption = Annotated[
    str | None, typer.Option("--prompt", help="Field with what was asked (pairs, text).")
]
IntoOption = Annotated[
    str | None, typer.Option("--into", help="Field that the label becomes in the dataset.")
]
AnnotatorsOption = Annotated[
    str | None, typer.Option("--annotators", metavar="A,B,…", help="Owners of keys; else you.")
]
OverlapOption = Annotated[int, typer.Option(min=1, max=10, help="How many label each item.")]
RowsOption = Annotated[int | None, typer.Option(min=1, help="Draw so many rows.")]


def new(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="name or name:number.")],
    field: FieldOption,
    kind: KindOption = "classification",
    name: Annotated[str | None, typer.Option("--name", help="Of the task.")] = None,
    labels: LabelsOption = None,
    several: Annotated[bool, typer.Option("--several", help="Any number of the labels.")] = False,
    scale: ScaleOption = None,
    prompt: PromptOption = None,
    into: IntoOption = None,
    annotators: AnnotatorsOption = None,
    overlap: OverlapOption = 1,
    instructions: InstructionsOption = None,
    consent: Annotated[str | None, typer.Option(help="What they must agree to first.")] = None,
    order: Annotated[str, typer.Option(help="random, dataset, uncertain.")] = "random",
    rows: RowsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="That they are drawn by.")] = 0,
    lease: Annotated[float, typer.Option(min=1, help="Seconds to answer in.")] = 600.0,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Have the rows of a dataset labelled.

    Examples:
      llmos data annotate new reviews --field review --labels good,bad --annotators bob,eve
      llmos data annotate new news --kind spans --field text --labels PERSON,CITY --rows 200
      llmos data annotate new answers --kind pairs --prompt asked --field one --field two
    """
    from llmos.cli.progress import watch_job

    options: dict[str, Any] = {"labels": _names(labels), "annotators": _names(annotators)}
    options |= {"several": several or None, "prompt": prompt, "into": into, **_scale(scale)}
    options |= {"instructions": instructions, "consent": consent, "overlap": overlap}
    options |= {"order": order, "rows": rows, "seed": seed, "lease_s": lease}
    with open_client(server, home) as client:
        task = client.annotate(name or dataset, dataset, kind, field, **options)
        watch_job(client, task["job"]["id"], "reading")
        task = client.annotation(task["id"])
    if as_json:
        print_json(task)
        return
    number = task["id"]
    left_out = sum(task["left_out"].values())
    without = f", {left_out} rows left out" if left_out else ""
    typer.echo(
        f"annotation task {number}: {counted(task['progress']['items'], 'item')}{without}; "
        f"`llmos data annotate work {number}` labels them"
    )


def show(
    task: TaskArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show a task: what is asked, how far it is, and of each annotator who has done how much.

    Examples:
      llmos data annotate show 1
    """
    with open_client(server, home) as client:
        found = client.annotation(task)
    if as_json:
        print_json(found)
        return
    scheme = found["scheme"]
    typer.echo(f"{found['id']}  {found['name']}  {scheme['kind']}  {found['state']}")
    for name in ("instructions", "consent"):
        if found[name]:
            typer.echo(f"{name}: {found[name]}")
    if "own" in found:
        own = found["own"]
        agreed = "" if own["agreed"] else "; you have not agreed yet"
        typer.echo(f"yours: {counts_of(own)}, {own['left']} left{agreed}")
    if "progress" not in found:
        return
    progress = found["progress"]
    counts = ", ".join(f"{progress[name]} {name}" for name in ("complete", "decided", "suggested"))
    typer.echo(f"{found['dataset']}: {counted(progress['items'], 'item')}, {counts}")
    for reason, count in found["left_out"].items():
        typer.echo(f"left out: {count} rows, {reason}")
    print_table(
        ("annotator", "labelled", "skipped", "flagged"),
        (
            (one["annotator"], one["labelled"], one["skipped"], one["flagged"])
            for one in progress["annotators"]
        ),
        empty="nobody has begun",
    )


def change(
    task: TaskArgument,
    annotators: AnnotatorsOption = None,
    instructions: InstructionsOption = None,
    closed: Annotated[
        bool | None, typer.Option("--close/--open", help="Whether items are given out.")
    ] = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Change who annotates a task, what they read, and whether items are given out.

    Examples:
      llmos data annotate change 1 --annotators bob,eve,lin
      llmos data annotate change 1 --close
    """
    with open_client(server, home) as client:
        changed = client.change_annotation(
            task, annotators=_names(annotators), instructions=instructions, closed=closed
        )
    note(f"annotation task {task} is {changed['state']}")


def suggest(
    task: TaskArgument,
    model: Annotated[str, typer.Option("--model", help="That says its labels first.")],
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Have a model label the items first; annotators see that as a suggestion.

    Examples:
      llmos data annotate suggest 1 --model sentiment
    """
    from llmos.cli.progress import watch_job

    with open_client(server, home) as client:
        job = client.suggest_labels(task, model)
        if not detach:
            job = watch_job(client, job["id"], "suggesting")
    if as_json or job["state"] != "succeeded":
        report(job, as_json)
        return
    result = job["result"]
    made = counted(result["suggested"], "suggestion")
    typer.echo(f"{made} of {result['model']} for {counted(result['items'], 'item')}")


def agreement(
    task: TaskArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show how far annotators agree: Cohen's and Fleiss' kappa, Krippendorff's alpha; of spans F1.

    Examples:
      llmos data annotate agreement 1
    """
    with open_client(server, home) as client:
        found = client.agreement(task)
    if as_json:
        print_json(found)
        return
    same = found["same"]
    shown = "" if same is None else f", {same:.1%} of them with one label only"
    typer.echo(f"{counted(found['items'], 'item')} with two labels or more{shown}")
    rows: list[tuple[object, ...]] = []
    for level, value in found.get("alpha", {}).items():
        rows.append((f"Krippendorff's alpha ({level})", None, found["items"], _number(value)))
    if fleiss := found.get("fleiss"):
        rows.append(("Fleiss' kappa", None, fleiss["items"], _number(fleiss["kappa"])))
    for one in found.get("cohen", ()):
        who = " and ".join(one["annotators"])
        rows.append(("Cohen's kappa", who, one["items"], _number(one["kappa"])))
    for label, value in found.get("alpha_by_label", {}).items():
        rows.append((f"alpha of {label}", None, found["items"], _number(value)))
    if "f1" in found:
        rows.append(("F1 of spans", None, found["items"], _number(found["f1"])))
    print_table(("measure", "between", "items", "value"), rows, empty="nothing to compare yet")


def review(
    task: TaskArgument,
    undecided: Annotated[
        bool, typer.Option("--undecided", help="Without those that most agree on.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show the items that want a reviewer: flagged, or with labels that differ.

    Examples:
      llmos data annotate review 1 --undecided
      llmos data annotate final 1 7 good
    """
    with open_client(server, home) as client:
        asked = client.annotation(task)["scheme"]
        found = list(client.items_to_review(task, undecided))
    if as_json:
        print_json(found)
        return
    for item in found:
        scheme = ordered(asked, task, item["place"])
        show_item(scheme, item)
        for label in item["labels"]:
            said = "skipped" if label["skipped"] else told(scheme, label["value"])
            flag = f"; flagged: {label['flag']}" if label["flag"] else ""
            typer.echo(visible(f"  {label['annotator']}: {said}{flag}"))
    if not found:
        note("nothing wants a reviewer")


def final(
    task: TaskArgument,
    place: PlaceArgument,
    value: Annotated[str, typer.Argument(metavar="LABEL", help="As for `annotate label`.")],
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Decide an item as its reviewer, whatever annotators said.

    Examples:
      llmos data annotate final 1 7 good
    """
    with open_client(server, home) as client:
        scheme = ordered(client.annotation(task)["scheme"], task, place)
        made = client.decide_item(task, place, parsed(scheme, value))
    print_json(made) if as_json else typer.echo(f"item {place}: decided, label {made['id']}")


def export(
    task: TaskArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the dataset to make.")],
    partial: Annotated[
        bool, typer.Option("--partial", help="Also of items that have not all their labels.")
    ] = False,
    description: Annotated[str, typer.Option("--description", help="For its card.")] = "",
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Make a dataset of what was decided, with all labels as a table beside it.

    Examples:
      llmos data annotate export 1 judged-reviews
    """
    from llmos.cli.progress import watch_job

    with open_client(server, home) as client:
        job = client.export_labels(task, name, partial=partial, description=description)
        if not detach:
            job = watch_job(client, job["id"], "exporting")
    report(job, as_json)


def remove(
    task: TaskArgument,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Remove a task with all its labels; datasets made of them stay.

    Examples:
      llmos data annotate rm 1
    """
    with open_client(server, home) as client:
        client.remove_annotation(task)
    note(f"removed: annotation task {task}")


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _scale(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    least, _, most = text.rpartition("-")
    if not (least.removeprefix("-").isdecimal() and most.isdecimal()):
        raise typer.BadParameter("--scale is LEAST-MOST, as 1-5")
    return {"least": int(least), "most": int(most)}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
