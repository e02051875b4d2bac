"""`llmos data run`, `diff`, `k-anonymity` and `operators`: pipelines of operators, what they
changed, and whether what they made is k-anonymous.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.data_options import DatasetArgument
from llmos.cli.options import DetachOption, HomeOption, JsonOption, ServerOption
from llmos.cli.output import counted, note, print_json, print_table, visible
from llmos.errors import NotFoundError


def register(app: typer.Typer) -> None:
    """Add this module's commands to `llmos data`."""
    app.command("run")(run)
    app.command("diff")(diff)
    app.command("k-anonymity")(k_anonymity)
    app.command("operators")(operators)


def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE", help="Pipeline file (YAML).")],
    input: Annotated[
        str | None, typer.Option("--input", help="Dataset to read; the file's by default.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Dataset to make; the file's by default.")
    ] = None,
    detach: DetachOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Run a pipeline of operators over a dataset, which makes another. Ctrl-C leaves it running.

    Examples:
      llmos data run clean.yaml
      llmos data run clean.yaml --input reviews:2 --name clean-reviews
    """
    from llmos.cli.data import report
    from llmos.cli.progress import watch_job
    from llmos.data.pipeline import spec

    wanted = spec.load(pipeline)
    wanted |= {key: value for key, value in (("input", input), ("name", name)) if value}
    spec.parse(wanted)
    with open_client(server, home) as client:
        job = client.run_operators(wanted)
        if not detach:
            job = watch_job(client, job["id"], "running")
    if not as_json and job["state"] == "succeeded":
        _print_steps(job["result"])
    report(job, as_json)


def diff(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A dataset.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another, or a later version.")],
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show what one dataset has more, less or otherwise than another, by the ids of the rows.

    Examples:
      llmos data diff reviews clean-reviews
      llmos data diff reviews:1 reviews:2 --json
    """
    from llmos.cli.data import shown
    from llmos.cli.progress import watch_job

    with open_client(server, home) as client:
        job = client.diff_datasets(before, after)
        found = watch_job(client, job["id"], "comparing")["result"]
    if as_json:
        print_json(found)
        return
    kinds = ("same", "changed", "added", "removed")
    typer.echo(
        f"{found['before']} -> {found['after']}: "
        + ", ".join(f"{found[kind]:,} {kind}" for kind in kinds)
    )
    for one in found["samples"]["changed"]:
        typer.secho(visible(one["id"]), dim=True)
        for field, was in one["before"].items():
            for sign, value in (("-", was), ("+", one["after"][field])):
                if value is not None:
                    typer.echo(f"  {sign} {visible(field)}: {shown(value)}")
    for kind, sign in (("removed", "-"), ("added", "+")):
        for row in found["samples"][kind]:
            fields = {field: value for field, value in row.items() if field not in ("id", "meta")}
            longest = max((shown(value) for value in fields.values()), key=len, default="")
            typer.echo(f"{sign} {visible(row['id'])}: {longest}")


def k_anonymity(
    dataset: DatasetArgument,
    by: Annotated[
        str,
        typer.Option("--by", metavar="FIELD,…", help="What others may know of somebody."),
    ],
    k: Annotated[int, typer.Option("-k", min=2, help="Rows that must be alike in these.")] = 5,
    sensitive: Annotated[
        str | None,
        typer.Option("--sensitive", metavar="FIELD", help="Must differ among rows alike."),
    ] = None,
    diversity: Annotated[
        int, typer.Option("--diversity", "-l", min=2, help="Different values of it, at least.")
    ] = 2,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Check that at least k rows are alike in what others may know; exit 1 where they are not.

    The operator of this name drops the rows of groups that are too small, or leaves the fields out.

    Examples:
      llmos data k-anonymity patients --by age,sex,postcode
      llmos data k-anonymity patients --by age,postcode -k 10 --sensitive illness -l 3
    """
    from llmos.cli.progress import watch_job

    fields = [field.strip() for field in by.split(",")]
    options = {"sensitive": sensitive, "diversity": diversity} if sensitive else {}
    with open_client(server, home) as client:
        job = client.check_k_anonymity(dataset, fields, k=k, **options)
        found = watch_job(client, job["id"], "counting")["result"]
    print_json(found) if as_json else _print_groups(found)
    if not found["is_k_anonymous"]:
        raise typer.Exit(1)


def operators(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One, with all of it.")] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List the operators, or show one with its options and an example.

    Examples:
      llmos data operators
      llmos data operators length
    """
    with open_client(server, home) as client:
        found = client.operators()
    if name is not None:
        known = [one["name"] for one in found]
        found = [one for one in found if one["name"] == name]
        if not found:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise NotFoundError(
                f"there is no operator {name!r}: {hint}`llmos data operators` lists them"
            )
    if as_json:
        print_json(found if name is None else found[0])
    elif name is None:
        rows = ((one["name"], one["group"], one["summary"]) for one in found)
        print_table(("operator", "group", "what it does"), rows, empty="there are none")
    else:
        _print_operator(found[0])


def _print_operator(one: dict[str, Any]) -> None:
    typer.echo(f"{one['name']} ({one['group']})\n\n{one['doc']}\n")
    print_table(
        ("option", "type", "default", "meaning"),
        (
            (option["name"], option["type"], _default(option), option["meaning"])
            for option in one["options"]
        ),
        empty="it has no options",
    )
    typer.echo(f"\n{one['example']}")


def _print_groups(found: dict[str, Any]) -> None:
    from llmos.cli.data import shown

    fields, sensitive = found["fields"], found["sensitive"]
    wanted, least = f"k = {found['k']}", counted(found["smallest"], "row")
    if sensitive:
        wanted += f", l = {found['diversity']} of {visible(sensitive)}"
        least += f" and {counted(found['least_values'], 'value')} of {visible(sensitive)}"
    typer.echo(
        f"{found['dataset']}: {found['rows']:,} rows in {found['groups']:,} groups by "
        f"{', '.join(map(visible, fields))}; at least {least} in each\n"
        f"{counted(found['small_rows'], 'row')} in {counted(found['small_groups'], 'group')} that "
        f"are too small ({wanted})"
    )
    rows = (
        (one["rows"], one["values"] if sensitive else None, *one["fields"].values())
        for one in found["samples"]
    )
    if found["samples"]:
        print_table(
            ("rows", "values", *fields),
            ([None if value is None else shown(value) for value in row] for row in rows),
            empty="",
        )


def _default(option: dict[str, Any]) -> str:
    import json

    if option.get("required"):  # an older server does not say
        return "required"
    value = option["default"]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print_steps(result: dict[str, Any]) -> None:
    from llmos.data.pipeline.changes import found_together

    print_table(
        ("step", "operator", "read", "changed", "kept", "rejected", "seconds", "dropped"),
        (
            (
                one["step"],
                one["operator"],
                one["read"],
                one["changed"],
                one["kept"],
                one["rejected"],
                f"{one['seconds']:.2f}",
                ", ".join(f"{reason} {count}" for reason, count in one["dropped"].items()),
            )
            for one in result["operators"]
        ),
        empty="no step was run",
    )
    for one in result["operators"]:
        if found := found_together(one):
            note(f"{one['step']}. {one['operator']}: {found}")
    note(f"{result['rows_read']:,} rows in {result['seconds']:.1f} s")
