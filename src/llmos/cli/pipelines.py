"""Commands for pipelines: run a file, check it, show a run as a graph, cancel it, go on with it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, duration, note, print_json, print_table
from llmos.errors import CancelledError, JobFailedError

if TYPE_CHECKING:
    from llmos.apps.drawing import Box
    from llmos.sdk.client import Client

app = typer.Typer(no_args_is_help=True)

FileArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="Pipeline file (YAML): see docs/pipelines.md.")
]
RunArgument = Annotated[
    int, typer.Argument(metavar="N", help="Run number, as `llmos pipeline list` shows.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the file."),
]
SvgOption = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="Write the graph as an SVG picture.")
]
MermaidOption = Annotated[
    bool, typer.Option("--mermaid", help="Print the graph in Mermaid, for Markdown pages.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="pipeline", rich_help_panel="Train")


@app.callback()
def pipeline() -> None:
    """Run several jobs, each after those it waits for.

    Examples:
      llmos pipeline check nightly.yaml
      llmos pipeline run nightly.yaml
      llmos pipeline show 3
    """


@app.command("run")
def run(
    file: FileArgument,
    changes: SetOption = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Do not wait: print the run's number.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Run a pipeline and say how its steps come along. Ctrl-C leaves the run going.

    Examples:
      llmos pipeline run recipes/pipelines/tiny.yaml
      llmos pipeline run nightly.yaml --set steps.train.params.set.steps=200
      llmos pipeline run nightly.yaml --detach
    """
    from llmos.apps.pipeline_file import load
    from llmos.cli.progress import transfer

    pipeline = load(file, list(changes or ()))
    with open_client(server, home) as client:
        with transfer("uploading") as on_progress:
            started = client.run_pipeline(pipeline, on_progress)
        if detach:
            _report_detached(started, as_json)
            return
        ended = _follow(client, started["id"])
    if as_json:
        print_json(ended)
    else:
        _print_graph(ended["steps"])
    _require_success(ended)


@app.command("check")
def check(
    file: FileArgument,
    changes: SetOption = None,
    svg: SvgOption = None,
    mermaid: MermaidOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Say in which line a pipeline is wrong, or show its graph. Runs nothing.

    Examples:
      llmos pipeline check nightly.yaml
      llmos pipeline check nightly.yaml --svg nightly.svg
    """
    from llmos.apps.pipeline_file import load
    from llmos.cli.progress import transfer

    pipeline = load(file, list(changes or ()))
    with open_client(server, home) as client, transfer("uploading") as on_progress:
        checked = client.check_pipeline(pipeline, on_progress)
    if as_json:
        print_json(checked)
    else:
        _show_graph(checked["steps"], checked["name"], svg, mermaid)


@app.command("show")
def show(
    number: RunArgument,
    svg: SvgOption = None,
    mermaid: MermaidOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show a run: its graph with the state of each step, and its jobs.

    Examples:
      llmos pipeline show 3
      llmos pipeline show 3 --svg run.svg
      llmos pipeline show 3 --json
    """
    with open_client(server, home) as client:
        found = client.pipeline(number)
    if as_json:
        print_json(found)
        return
    title = f"{found['name']}, run {number}"
    if mermaid:
        _show_graph(found["steps"], title, svg, mermaid)
        return
    typer.echo(f"run {number}  {found['name']}  {found['state']}  {_took(found)}\n")
    _show_graph(found["steps"], title, svg, mermaid)
    typer.echo()
    _print_steps(found["steps"])
    if found["error"]:
        typer.echo(f"\n{found['error']['message']}")
        typer.echo(f"`llmos pipeline retry {number}` goes on from there")


@app.command("list")
def list_runs(
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="The newest N runs.")
    ] = 100,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List the newest runs of pipelines, the newest first.

    Examples:
      llmos pipeline list
      llmos pipeline list --limit 5 --json
    """
    with open_client(server, home) as client:
        found = client.pipelines(limit=limit)
    if as_json:
        print_json(found)
        return
    print_table(
        ("n", "name", "state", "made", "took", "error"),
        (
            (
                one["id"],
                one["name"],
                one["state"],
                age(one["created_at"]),
                _took(one),
                (one["error"] or {}).get("message", "").split("\n", 1)[0][:80],
            )
            for one in found
        ),
        empty="no runs yet: `llmos pipeline run FILE` makes one",
    )


@app.command("cancel")
def cancel(number: RunArgument, server: ServerOption = None, home: HomeOption = None) -> None:
    """Cancel a run and all its jobs that have not ended; what they made before stays.

    Examples:
      llmos pipeline cancel 3
    """
    with open_client(server, home) as client:
        client.cancel_pipeline(number)
    typer.echo(f"run {number} is cancelled: `llmos pipeline retry {number}` goes on with it")


@app.command("retry")
def retry(number: RunArgument, server: ServerOption = None, home: HomeOption = None) -> None:
    """Go on with a run that failed or was cancelled: what succeeded is not done again.

    Examples:
      llmos pipeline retry 3
    """
    with open_client(server, home) as client:
        client.retry_pipeline(number)
    typer.echo(f"run {number} goes on: `llmos pipeline show {number}`")


def _follow(client: Client, number: int) -> dict[str, Any]:
    """Say on stderr whenever a step comes to another state; return the run once it has ended."""
    said: dict[str, str] = {}
    run: dict[str, Any] = {}
    try:
        for run in client.follow_pipeline(number):
            for step in run["steps"]:
                line = _described(step)
                if step["state"] != "waiting" and said.get(step["name"]) != line:
                    said[step["name"]] = line
                    note(f"{step['name']}: {line}")
    except KeyboardInterrupt:
        note(
            f"\nDetached; the run goes on. Come back with `llmos pipeline show {number}`, "
            f"stop it with `llmos pipeline cancel {number}`."
        )
        raise
    return run


def _require_success(run: Mapping[str, Any]) -> None:
    """Raise what a run that did not succeed ended with."""
    if run["state"] == "cancelled":
        raise CancelledError(f"run {run['id']} was cancelled")
    if run["state"] == "failed":
        reason = (run["error"] or {}).get("message", "no reason was kept")
        raise JobFailedError(f"{reason} (`llmos pipeline retry {run['id']}` goes on from there)")


def _report_detached(run: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(run)
    else:
        typer.echo(f"run {run['id']}: `llmos pipeline show {run['id']}` says how it comes along")


def _show_graph(
    steps: list[dict[str, Any]], title: str, svg: Path | None, in_mermaid: bool
) -> None:
    from llmos.apps import drawing

    if in_mermaid:
        typer.echo(drawing.mermaid(_boxes(steps)), nl=False)
    else:
        _print_graph(steps)
    if svg is not None:
        svg.write_text(drawing.svg(_boxes(steps), title), "utf-8")
        note(f"{svg} has the graph")


def _print_steps(steps: list[dict[str, Any]]) -> None:
    print_table(
        ("step", "kind", "state", "jobs", "took", "made"),
        (
            (
                step["name"],
                step["kind"],
                _described(step),
                _numbers(step["jobs"]),
                _step_took(step["jobs"]),
                ", ".join(ref for job in step["jobs"] for ref in job["artifacts"]),
            )
            for step in steps
        ),
        empty="",
    )


def _print_graph(steps: list[dict[str, Any]]) -> None:
    from llmos.apps import drawing

    for line in drawing.text(_boxes(steps)):
        typer.echo(line)


def _boxes(steps: list[dict[str, Any]]) -> list[Box]:
    from llmos.apps.drawing import Box

    return [
        Box(
            step["name"],
            tuple(step["after"]),
            step["name"] + _times(step),
            f"{step['kind']} {_described(step)}",
            step["state"],
        )
        for step in steps
    ]


def _times(step: Mapping[str, Any]) -> str:
    if not step["each"]:
        return ""
    return f" ×{step['total'] or 'n'}"


def _described(step: Mapping[str, Any]) -> str:
    """Return the state of a step, and how many of its jobs succeeded where it has several."""
    jobs = step["jobs"]
    if not step["each"] or not jobs:
        return str(step["state"])
    done = sum(job["state"] == "succeeded" for job in jobs)
    return f"{step['state']}, {done} of {step['total'] or len(jobs)}"


def _numbers(jobs: list[dict[str, Any]]) -> str:
    """Return the numbers of jobs: ``7``, or ``7-9`` where they follow each other."""
    ids = [job["id"] for job in jobs]
    if len(ids) > 1 and ids == list(range(ids[0], ids[-1] + 1)):
        return f"{ids[0]}-{ids[-1]}"
    return ", ".join(map(str, ids))


def _took(run: Mapping[str, Any]) -> str:
    return duration((run["finished_at"] or time.time()) - run["created_at"])


def _step_took(jobs: list[dict[str, Any]]) -> str:
    """Return how long it was from the start of a step's first job to the end of its last."""
    starts = [job["started_at"] for job in jobs if job["started_at"] is not None]
    if not starts:
        return ""
    now = time.time()
    return duration(max(job["finished_at"] or now for job in jobs) - min(starts))
