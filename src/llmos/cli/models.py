"""Commands for the library of models: list, show, import, pull, export, rm, alias, gc."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmos.cli.connection import local_settings, open_client
from llmos.cli.options import HomeOption, JsonOption, ModelArgument, ServerOption
from llmos.cli.output import age, count, note, print_json, print_table, size
from llmos.cli.using import say_ready
from llmos.errors import InvalidRequestError

if TYPE_CHECKING:
    from llmos.sdk.client import Client
    from llmos.settings import Settings

PANEL = "Models"
LOSS_CURVE = "loss.png"
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        metavar="TASK",
        help="Use it to embed, rerank, classify, rate or fill_mask, where its files do not say so.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("list", rich_help_panel=PANEL)(list_models)
    app.command("show", rich_help_panel=PANEL)(show)
    app.command("import", rich_help_panel=PANEL)(import_model)
    app.command("pull", rich_help_panel=PANEL)(pull)
    app.command("export", rich_help_panel=PANEL)(export)
    app.command("rm", rich_help_panel=PANEL)(remove)
    app.command("alias", rich_help_panel=PANEL)(alias)
    app.command("gc", rich_help_panel=PANEL)(collect_garbage)


def list_models(
    catalog: Annotated[
        bool, typer.Option("--catalog", help="List well-known models that `llmos pull` can fetch.")
    ] = False,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """List the models and adapters of the library, or the models worth pulling.

    Examples:
      llmos list
      llmos list --catalog
      llmos list --json
    """
    with open_client(server, home) as client:
        rows = client.catalog() if catalog else [*client.models(), *client.models("adapter")]
    if as_json:
        print_json(rows)
    elif catalog:
        _print_catalog(rows)
    else:
        _print_models(rows)


BaseOption = Annotated[
    str | None,
    typer.Option(
        "--base", metavar="MODEL", help="The model that an adapter runs over, by its name here."
    ),
]


DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="int8 or int4: make a quantised version as well; stored: do not; auto: where it pays.",
    ),
]


def _print_models(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("name", "task", "parameters", "size", "languages", "made", "from"),
        (
            (
                row["ref"],
                " ".join(row["manifest"].get("heads") or [row["manifest"]["task"]]),
                count(row["manifest"].get("parameters")),
                size(row["size_bytes"]),
                " ".join(row["manifest"].get("languages") or ()),
                age(row["created_at"]),
                _origin(row),
            )
            for row in rows
        ),
        empty="no models yet: `llmos import DIR --name NAME` or `llmos list --catalog`",
    )


def _origin(row: dict[str, Any]) -> str:
    """Return where a version came from, and what an adapter is for."""
    kind = (row["manifest"].get("source") or {}).get("kind") or ""
    return f"{kind}, adapter of {row['manifest']['base']}" if row["kind"] == "adapter" else kind


def _print_catalog(rows: list[dict[str, Any]]) -> None:
    print_table(
        ("repository", "task", "parameters", "size", "licence", "fits", "languages", "about"),
        (
            (
                row["repo"],
                row["task"],
                count(row["parameters"]),
                size(row["size_bytes"]),
                row["license"],
                "yes" if row["fits"] else "no",
                " ".join(row["languages"]),
                row["description"],
            )
            for row in rows
        ),
        empty="the catalog is empty",
    )
    note("`llmos pull REPOSITORY` fetches one; `fits` is about this machine's free memory now")


def show(
    model: ModelArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show a model's card: architecture, size, metrics, lineage, what it cannot do.

    Examples:
      llmos show starter-chat
      llmos show my-model:2 --json
    """
    with open_client(server, home) as client:
        version = client.model(model)
        if as_json:
            print_json(version)
            return
        card = client.card(version["ref"])
        curve = _save_curve(client, version, local_settings(home))
    _print_markdown(card)
    if curve is not None:
        typer.echo(f"loss curve: {curve}")


def _save_curve(client: Client, version: dict[str, Any], settings: Settings) -> Path | None:
    """Put a trained model's loss curve where an image viewer can open it; None if it has none."""
    if LOSS_CURVE not in version["files"]:
        return None
    route = f"/api/v1/models/{version['ref']}/files/{LOSS_CURVE}"
    name = str(version["ref"]).replace("/", "_").replace(":", "-")
    path = settings.home / "curves" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(client.transport.response("GET", route).content)
    return path


def _print_markdown(text: str) -> None:
    if not sys.stdout.isatty():
        typer.echo(text)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))


def import_model(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Hugging Face-format folder.")],
    name: Annotated[str | None, typer.Option("--name", help="Name in the library.")] = None,
    task: TaskOption = None,
    base: BaseOption = None,
    dtype: DtypeOption = "auto",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Import a model, or a LoRA adapter, from a folder in Hugging Face format (safetensors only).

    Examples:
      llmos import ./my-checkpoint --name my-model
      llmos import ./my-lora --name my-adapter --base my-model
      llmos import ./my-checkpoint --name my-embedder --task embed
      llmos import ./my-checkpoint --name my-model --dtype int4
    """
    from llmos.cli.progress import follow_job, transfer

    wanted = directory.resolve().name if name is None else name
    with open_client(server, home) as client:
        with transfer("uploading") as on_progress:
            job = client.import_model(
                directory, wanted, on_progress, task=task, base=base, dtype=dtype
            )
        _report_made(client, follow_job(client, job["id"], "importing"), as_json)


def pull(
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.")],
    name: Annotated[str | None, typer.Option("--name", help="Name in the library.")] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit.")
    ] = None,
    task: TaskOption = None,
    base: BaseOption = None,
    dtype: DtypeOption = "auto",
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Fetch a model from the Hugging Face hub (HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE are honoured).

    Examples:
      llmos pull Qwen/Qwen3-0.6B
      llmos pull Helsinki-NLP/opus-mt-en-zh --name en-zh
    """
    from llmos.cli.progress import follow_job

    with open_client(server, home) as client:
        job = client.pull(repo, name=name, revision=revision, task=task, base=base, dtype=dtype)
        _report_made(client, follow_job(client, job["id"], "pulling"), as_json)


def _report_made(client: Client, job: dict[str, Any], as_json: bool) -> None:
    """Say what an import or a pull has made, and follow the job that quantises it where that was
    asked for."""
    from llmos.cli.progress import follow_job

    result = job["result"]
    if not as_json:
        _say_made(result)
    if (number := result.get("next_job")) is not None:
        if result["quantize"] == "auto":
            note(f"job {number} quantises it as well: `llmos jobs logs {number} -f` follows it")
        else:
            job = follow_job(client, number, "quantising")
            if not as_json:
                _say_made(job["result"])
    if as_json:
        print_json(job)


def _say_made(result: Mapping[str, Any]) -> None:
    for ref in result["artifacts"]:
        say_ready(ref, result.get("task"))


def export(
    model: ModelArgument,
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New or empty folder.")],
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Write a model's files to a folder that transformers can load; a quantised one, llmos alone.

    Examples:
      llmos export my-model ./my-model
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InvalidRequestError(f"{directory} exists and is not an empty folder: name a new one")
    from llmos.cli.progress import transfer

    with open_client(server, home) as client, transfer("exporting") as on_progress:
        version = client.model(model)
        client.export_model(model, directory, on_progress)
    typer.echo(f"{model} is in {directory}")
    if version["manifest"].get("quantization"):
        note("its weights are quantised in llmos' own format: `llmos import` reads them back")


def remove(model: ModelArgument, server: ServerOption = None, home: HomeOption = None) -> None:
    """Remove a model version from the library; `llmos gc` frees its space later.

    Examples:
      llmos rm my-model
      llmos rm my-model:2
    """
    with open_client(server, home) as client:
        client.remove_model(model)
    typer.echo(f"removed {model} (`llmos gc` frees its space)")


def alias(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="ALIAS", help="Alias to set, e.g. production.")],
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Let an alias point at a model version; `name@alias` then means that version.

    Examples:
      llmos alias my-model:3 production
      llmos run my-model@production "ROMEO:"
    """
    with open_client(server, home) as client:
        client.alias(model, name)
    typer.echo(f"@{name} now means {model}")


def collect_garbage(
    grace_s: Annotated[
        float | None,
        typer.Option("--grace-s", min=0, help="Spare files younger than this many seconds."),
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Free the space of files that no model refers to any more.

    Examples:
      llmos gc
      llmos gc --grace-s 0
    """
    with open_client(server, home) as client:
        report = client.gc(grace_s)
    if as_json:
        print_json(report)
    else:
        typer.echo(f"freed {size(report['freed_bytes'])} in {report['removed']} files")
