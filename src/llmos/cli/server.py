"""Commands for the server process: up, down, ps, logs, version."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from llmos.cli.connection import local_settings, open_client
from llmos.cli.options import FollowOption, HomeOption, JsonOption, ServerOption
from llmos.cli.output import (
    duration,
    job_state,
    note,
    percent,
    print_json,
    print_table,
    signed_percent,
    size,
)
from llmos.errors import ConflictError
from llmos.settings import Settings, load_settings

PANEL = "Server"
STARTER_CHAT = "starter-chat"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("up", rich_help_panel=PANEL)(up)
    app.command("down", rich_help_panel=PANEL)(down)
    app.command("ps", rich_help_panel=PANEL)(ps)
    app.command("logs", rich_help_panel=PANEL)(logs)
    app.command("version", rich_help_panel=PANEL)(version)


def up(
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay in this terminal; Ctrl-C stops the server.")
    ] = False,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Port; 0 picks a free one.")
    ] = None,
    behind_proxy: Annotated[
        bool, typer.Option("--behind-proxy", help="A TLS proxy stands before this server.")
    ] = False,
    trust_loopback: Annotated[
        bool,
        typer.Option("--trust-loopback", help="Let this machine's programs ask without a key."),
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="Device of the engine: auto, cpu or cuda:N.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=0, help="CPU threads; 0 means all cores.")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option("--log-level", help="debug, info, warning or error.")
    ] = None,
    prove: Annotated[
        bool, typer.Option("--prove", help="Then translate and chat once, and print the times.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Start the server in the background and wait until it is ready.

    Examples:
      llmos up
      llmos up --port 9000
      llmos up --prove
      llmos up --foreground
    """
    options = {
        "home": home,
        "host": host,
        "port": port,
        "behind_proxy": behind_proxy or None,
        "trust_loopback": trust_loopback or None,
        "device": device,
        "threads": threads,
        "log_level": log_level,
    }
    flags = {name: value for name, value in options.items() if value is not None}
    settings = load_settings(flags)
    if foreground:
        from llmos.server.process import run_foreground

        run_foreground(settings)
    else:
        _up_background(settings, flags)
        if prove:
            _prove(settings)


def _up_background(settings: Settings, flags: Mapping[str, object]) -> None:
    from llmos.cli.launch import server_pid, start_background
    from llmos.sdk.connect import find_server

    running = find_server(settings)
    if running is not None:
        if urlsplit(running.url).port is None:
            raise ConflictError(
                f"a Python program (process {server_pid(settings)}) has {settings.home} open: "
                "llmos can start on it when that program has ended"
            )
        wanted = flags.get("port")
        if wanted and not running.url.endswith(f":{wanted}"):
            raise ConflictError(
                f"llmos already runs on {settings.home} at {running.url}: "
                "`llmos down` stops it, or give the second one another --home"
            )
        typer.echo(f"llmos is already running at {running.url} (process {server_pid(settings)})")
        return
    endpoint = start_background(settings, flags)
    typer.echo(f"llmos is ready at {endpoint.url} (process {server_pid(settings)})")
    note("`llmos down` stops it; `llmos logs -f` shows what it does")


def _prove(settings: Settings) -> None:
    """Put one translation and one chat turn through the starter models; print both with times."""
    import time

    hello, question = "Hello, world!", "Hello, who are you?"
    with open_client(None, settings.home) as client:
        begun = time.perf_counter()
        answer = client.translate(hello, "en", "zh")["text"]
        took = time.perf_counter() - begun
        typer.echo(f"  translate  {hello} -> {answer}  ({took:.2f} s)")
        begun = time.perf_counter()
        answer = client.chat(STARTER_CHAT, [{"role": "user", "content": question}])["text"]
        took = time.perf_counter() - begun
        typer.echo(f"  chat       {question} -> {answer}  ({took:.2f} s)")


def down(home: HomeOption = None) -> None:
    """Stop the server; jobs that run go on when it starts again.

    Examples:
      llmos down
    """
    from llmos.cli.launch import stop

    typer.echo("llmos is stopped" if stop(local_settings(home)) else "llmos is not running")


def ps(
    memory: Annotated[
        bool, typer.Option("--memory", help="Show what was expected of them, and what they take.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show the models in memory and the jobs that run.

    Examples:
      llmos ps
      llmos ps --memory
      llmos ps --json
    """
    with open_client(server, home, start=False) as client:
        status = client.memory() if memory else client.ps()
    if as_json:
        print_json(status)
    elif memory:
        _print_memory(status)
    else:
        _print_status(status)


def _print_status(status: dict[str, Any]) -> None:
    print_table(
        ("model", "state", "memory", "requests", "running", "waiting", "kv", "prefix hits", "idle"),
        [row for model in status["models"] for row in _model_rows(model)],
        empty="no model is in memory: the first request loads one",
    )
    print_table(
        ("job", "kind", "name", "state", "memory"),
        (
            (job["id"], job["kind"], job["name"], job_state(job), size(job["reserved_bytes"]))
            for job in status["jobs"]
        ),
        empty="no job is running",
    )


def _model_rows(model: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Yield a resident model's row, and one for each adapter loaded over it."""
    yield (
        model["name"],
        model["state"],
        size(model["bytes"]),
        model["leases"],
        sum(model["running"].values()),
        sum(model["waiting"].values()),
        percent(model["kv_use"]),
        percent(model["prefix_hit_rate"]),
        duration(model["idle_s"]),
    )
    for one in model.get("adapters", ()):
        row = (f"+ {one['name']}", one["state"], size(one["bytes"]), one["requests"])
        yield (*row, *[""] * 5)


def _print_memory(memory: dict[str, Any]) -> None:
    """Print what takes memory, then how good the predictions of each kind were."""
    rows = [
        (f"job {job['id']} {job['kind']} {job['name']}", job, "held" if job["held"] else "running")
        for job in memory["jobs"]
    ]
    rows += [(f"model {model['name']}", model, model["state"]) for model in memory["models"]]
    rows.append(("engine", memory["engine"], ""))
    print_table(
        ("what", "predicted", "reserved", "measured", "peak", "error", "state"),
        (
            (
                what,
                size(one.get("predicted_bytes")),
                size(one["reserved_bytes"]),
                size(one["measured_bytes"]),
                size(one.get("peak_bytes")),
                signed_percent(one.get("error")),
                state,
            )
            for what, one, state in rows
        ),
        empty="",
    )
    given, capacity = size(memory["reserved_bytes"]), size(memory["capacity_bytes"])
    left = size(memory["available_bytes"])
    typer.echo(f"{given} of {capacity} reserved, {left} left on the machine\n")
    print_table(
        ("kind", "n", "median error", "worst", "too small", "median error of time"),
        (
            (
                one["kind"],
                one["num_rows"],
                percent(one["median_error"]),
                signed_percent(one["worst_error"]),
                one["num_short"],
                percent(one["median_error_s"]),
            )
            for one in memory["history"]
        ),
        empty="nothing was measured yet: predictions are what job kinds and manifests declare",
    )


def logs(
    follow: FollowOption = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, help="How many of the last lines to print.")
    ] = 100,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Print the server's log; it can be read while no server runs, too.

    Examples:
      llmos logs
      llmos logs -f
      llmos logs -n 1000
    """
    from llmos.sdk.connect import find_server

    settings = local_settings(home)
    if server is None and find_server(settings) is None:
        for line in _last_lines(settings, lines):
            typer.echo(line)
        return
    with open_client(server, home, start=False) as client:
        for line in client.logs(lines=lines, follow=follow):
            typer.echo(line)


def _last_lines(settings: Settings, lines: int) -> Iterable[str]:
    path = settings.logs_path / "server.log"
    if not path.exists():
        note("no log yet: `llmos up` starts the server")
        return ()
    return path.read_text("utf-8", "replace").splitlines()[-lines:]


def version(
    as_json: JsonOption = False, server: ServerOption = None, home: HomeOption = None
) -> None:
    """Print the versions of this llmos, Python, torch, and of the server where one runs.

    Examples:
      llmos version
    """
    import platform
    from importlib.metadata import version as installed

    from llmos import __version__
    from llmos.sdk.connect import find_server

    facts = {
        "llmos": __version__,
        "python": platform.python_version(),
        "torch": installed("torch"),
        "transformers": installed("transformers"),
    }
    if server or find_server(local_settings(home)) is not None:
        with open_client(server, home, start=False) as client:
            facts["server"] = client.version()["version"]
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        typer.echo(f"{name} {value}")
