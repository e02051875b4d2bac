"""Commands that say where a version or an answer came from, keep answers, and ask again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import note, print_json

PANEL = "Deploy"
IdArgument = Annotated[
    str, typer.Argument(metavar="ID", help="Id of a response, as the API gave it.")
]


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (lineage, replay, answers):
        root.command(command.__name__, rich_help_panel=PANEL)(command)


def lineage(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="A model, dataset:NAME, or a response's id.")
    ],
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Show where a model or a dataset came from, job, data, recipe, base; or which model gave an
    answer.

    Of an answer that is known only if it was kept: `llmos answers on`.

    Examples:
      llmos lineage my-model:3
      llmos lineage dataset:clean-reviews
      llmos lineage chatcmpl-0f3a6c5be1d94be0a9b2e6a4f5f7c1d2
    """
    is_answer = what.startswith(("chatcmpl-", "cmpl-", "resp_", "gen-", "ollama-"))
    with open_client(server, home) as client:
        found = client.answer_lineage(what) if is_answer else client.lineage(what)
    if as_json:
        print_json(found)
        return
    if is_answer:
        for line in _answer_lines(found["answer"]):
            typer.echo(line)
    for version in found["versions"]:
        for line in _version_lines(version, ""):
            typer.echo(line)


def replay(
    response_id: IdArgument,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Ask the same of the same version again, with the same seed, and compare token by token.

    Examples:
      llmos replay chatcmpl-0f3a6c5be1d94be0a9b2e6a4f5f7c1d2
    """
    with open_client(server, home) as client:
        came = client.replay(response_id)
    if as_json:
        print_json(came)
        return
    for text in came["texts"]:
        typer.echo(text)
    if came["same"]:
        note(f"the same, token by token, from {came['model']}")
    else:
        choice, token = came["first_difference"]
        note(f"{came['model']} answers otherwise: choice {choice} differs from token {token} on")


def answers(
    switch: Annotated[
        Literal["on", "off"] | None, typer.Argument(help="on or off; nothing: which it is.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Keep your answers for 30 days, with what was asked, so that they can be explained and
    replayed; or keep no more, and forget those kept.

    Examples:
      llmos answers
      llmos answers on
      llmos answers off
    """
    with open_client(server, home) as client:
        if switch is not None:
            client.keep_answers(switch == "on")
        keeps = client.keeps_answers()
    if as_json:
        print_json({"keeps": keeps})
        return
    if switch == "off":
        note("the answers that were kept are forgotten")
    typer.echo("answers are kept" if keeps else "answers are not kept")


def _answer_lines(answer: Mapping[str, Any]) -> Iterator[str]:
    sampling = answer["request"]["sampling"]
    yield f"answer {answer['id']}, {_when(answer['at'])}, for {answer['owner']}"
    yield f"  asked of  {answer['asked']}"
    yield f"  given by  {answer['model']}"
    if answer["runs_as"] not in answer["model"].split("+"):
        yield f"  runs as   {answer['runs_as']}"
    yield f"  digest    {answer['digest']}"
    yield "  sampling  " + ", ".join(
        f"{name} {sampling[name]}" for name in ("temperature", "top_p", "seed", "max_tokens")
    )
    yield "  settings  " + ", ".join(f"{k} {v}" for k, v in answer["settings"].items())


def _version_lines(version: Mapping[str, Any], indent: str) -> Iterator[str]:
    """Yield a version and what is behind it, each level further in."""
    if "digest" not in version:
        yield f"{indent}from {version['ref']}"
        return
    aliases = "".join(f" @{alias}" for alias in version["aliases"])
    gone = ", removed" if version["removed_at"] else ""
    yield f"{indent}{version['ref']}{aliases} ({version['kind']}{gone})"
    yield f"{indent}  digest    {version['digest']}"
    shown = {source.get("digest") for source in version["inputs"]}
    if made := version["made_by"]:
        yield f"{indent}  made by   job {made['job']} ({made['kind']}) of {made['owner']}"
        for path, digest in made["data"].items():
            shown.add(digest)
            yield f"{indent}  data      {path} {digest}"
    if recipe := version["recipe"]:
        yield f"{indent}  recipe    {_short(recipe)}"
    if pipeline := version.get("pipeline"):
        names = ", ".join(name for step in pipeline["steps"] for name in step)
        yield f"{indent}  steps     {names}"
    for source in version["inputs"]:
        if source["ref"] not in shown:
            yield from _version_lines(source, indent + "  ")


def _short(recipe: Mapping[str, Any]) -> str:
    import json

    text = json.dumps(recipe, ensure_ascii=False)
    return text if len(text) <= 200 else text[:197] + "..."


def _when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
