"""Commands for jobs: list them, show one, follow its log or all, cancel it, run it again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import FollowOption, HomeOption, JobArgument, JsonOption, ServerOption
from llmos.cli.output import age, duration, job_state, print_json, print_table

app = typer.Typer()


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="jobs", rich_help_panel="Train")


@app.callback(invoke_without_command=True)
def list_jobs(
    context: typer.Context,
    limit: Annotated[
        int, typer.Option("--limit", metavar="N", min=1, max=1000, help="The newest N jobs.")
    ] = 100,
    state: Annotated[
        list[str] | None,
        typer.Option("--state", metavar="STATE", help="Only those in this state (repeatable)."),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List the newest jobs, the newest first; show one, follow its log, cancel it.

    States: waiting, queued, running, paused, succeeded, failed, cancelled.

    Examples:
      llmos jobs
      llmos jobs --limit 5
      llmos jobs --state failed
      llmos jobs show 3
      llmos jobs logs 3 -f
      llmos jobs cancel 3
      llmos jobs retry 3
    """
    if context.invoked_subcommand is not None:
        context.obj = (server, home)
        return
    with open_client(server, home) as client:
        rows = client.jobs(limit=limit, states=state or ())
    if as_json:
        print_json(rows)
        return
    none = "no jobs yet: `llmos train RECIPE --name NAME` makes one"
    print_table(
        ("n", "kind", "name", "state", "progress", "made", "took"),
        (
            (
                job["id"],
                job["kind"],
                job["name"],
                job_state(job),
                _progress(job),
                age(job["created_at"]),
                _took(job),
            )
            for job in sorted(rows, key=lambda job: -job["id"])
        ),
        empty=f"no job is {' or '.join(state)}" if state else none,
    )


def _progress(job: Mapping[str, Any]) -> str:
    if error := job.get("error"):
        return str(error["message"]).split("\n", 1)[0][:80]
    progress = job.get("progress")
    if not progress or not progress.get("total"):
        return ""
    return f"{progress['step']}/{progress['total']} {progress.get('message') or ''}".strip()


def _took(job: Mapping[str, Any]) -> str:
    started = job.get("started_at")
    if started is None:
        return ""
    return duration((job.get("finished_at") or time.time()) - started)


@app.command("show")
def show(
    context: typer.Context,
    number: JobArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show one job: its state, progress, result, and what was measured last of it.

    Examples:
      llmos jobs show 3
      llmos jobs show 3 --json
    """
    from llmos.cli.progress import describe_metrics
    from llmos.sdk.comparing import points_of

    with _client(context, server, home) as client:
        job = client.job(number)
        points = points_of(client.job_events(number, follow=False))
    job["measured"] = {name: value for point in points for name, value in point.items()}
    if as_json:
        print_json(job)
        return
    facts: dict[str, object] = {
        "job": job["id"],
        "kind": job["kind"],
        "name": job["name"],
        "state": job_state(job),
        "attempt": f"{job['attempt']} of {job['max_attempts']}",
        "progress": _progress(job),
        "measured": describe_metrics(job["measured"]),
        "made": age(job["created_at"]),
        "took": _took(job),
    }
    facts = {name: fact for name, fact in facts.items() if name != "measured" or fact}
    if job.get("error"):
        facts["error"] = job["error"]["message"]
    for key, value in (job.get("result") or {}).items():
        facts[key] = _plain(value)
    width = max(map(len, facts))
    for key, value in facts.items():
        typer.echo(f"{key:<{width}}  {value}")


def _plain(value: object) -> str:
    import json

    if isinstance(value, list):
        return ", ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


@app.command("logs")
def logs(
    context: typer.Context,
    number: JobArgument,
    follow: FollowOption = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Print a job's log: its states, lines and measurements.

    Examples:
      llmos jobs logs 3
      llmos jobs logs 3 -f
    """
    import json

    with _client(context, server, home) as client:
        for event in client.job_events(number, follow=follow):
            if event["type"] == "progress" and not as_json:
                continue
            typer.echo(json.dumps(event, ensure_ascii=False) if as_json else format_event(event))


def format_event(event: Mapping[str, Any], subject: str = "") -> str:
    """Return one job event as a line of text: clock time, then whom it is about, if said, then what
    happened."""
    clock = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    data = event["data"]
    if event["type"] == "log":
        return f"{clock} {data['line']}"
    if event["type"] == "state":
        error, asked = data.get("error"), data.get("cancel_requested")
        reason = f": {error['message']}" if error else ": cancelling" if asked else ""
        return f"{clock} {subject}{data['state']}{reason}"
    values = " ".join(f"{name} {value:g}" for name, value in data["values"].items())
    return f"{clock} step {data['step']:g} {values}"


@app.command("cancel")
def cancel(
    context: typer.Context,
    number: JobArgument,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Cancel a job; a running one ends within seconds and keeps nothing half-made.

    Examples:
      llmos jobs cancel 3
    """
    with _client(context, server, home) as client:
        client.cancel_job(number)
    typer.echo(f"job {number} is being cancelled")


@app.command("retry")
def retry(
    context: typer.Context,
    number: JobArgument,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Run a job that failed or was cancelled again, and those that failed only because it did.

    Examples:
      llmos jobs retry 3
    """
    with _client(context, server, home) as client:
        job = client.retry_job(number)
    typer.echo(f"job {number} is {job['state']} again")


@app.command("watch")
def watch(
    context: typer.Context,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Print what becomes of all jobs from now on, until Ctrl-C; with --json all that they say.

    Examples:
      llmos jobs watch
    """
    import json

    with _client(context, server, home) as client:
        for event in client.events():
            if as_json:
                typer.echo(json.dumps(event, ensure_ascii=False))
            elif event["type"] == "state":
                typer.echo(format_event(event, f"job {event['job_id']} "))


def _client(context: typer.Context, server: str | None, home: Any) -> Any:
    """Return the client; options given before the subcommand count where it has none of its own."""
    outer_server, outer_home = context.parent.obj if context.parent else (None, None)
    return open_client(server or outer_server, home or outer_home)
