"""Commands for API keys: create, list, revoke."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, JsonOption, ServerOption
from llmos.cli.output import age, note, print_json, print_table
from llmos.errors import InvalidRequestError

app = typer.Typer(no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    root.add_typer(app, name="keys", rich_help_panel="Server")


@app.callback()
def keys() -> None:
    """Make, list and revoke API keys.

    Examples:
      llmos keys create laptop
      llmos keys list
    """


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    role: Annotated[str, typer.Option("--role", help="admin or user.")] = "user",
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Only this model (repeatable).")
    ] = None,
    action: Annotated[
        list[str] | None, typer.Option("--action", help="Only this action (repeatable).")
    ] = None,
    priority: Annotated[
        str | None, typer.Option("--priority", help="Best class it may ask for, e.g. standard.")
    ] = None,
    anonymise: Annotated[
        str | None,
        typer.Option(
            "--anonymise",
            metavar="[KEY=VALUE …]",
            help="Hide personal data in what this key asks, and in the answers: action=replace, "
            "mask or pseudonym, types=EMAIL,PHONE,…, language=auto, en or zh, names=cautious or "
            "eager, answers=true or false; on: all as it is without.",
        ),
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option("--expires-days", help="Days until it stops working.")
    ] = None,
    as_json: JsonOption = False,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Make an API key. It is shown once: llmos keeps only its hash.

    Examples:
      llmos keys create laptop
      llmos keys create ci --role user --model starter-chat --expires-days 30
      llmos keys create support --anonymise on
      llmos keys create lab --anonymise "action=mask types=EMAIL,PHONE answers=false"
    """
    wanted: dict[str, Any] = {
        "models": list(model) if model else None,
        "actions": list(action) if action else None,
        "best_priority": priority,
        "anonymise": None if anonymise is None else _anonymise(anonymise),
        "expires_in_s": None if expires_days is None else expires_days * 86400,
    }
    limits = {key: value for key, value in wanted.items() if value is not None}
    with open_client(server, home) as client:
        key = client.create_key(name, role, **limits)
    if as_json:
        print_json(key)
        return
    note("Keep this key now; it is not shown again. Programs pass it as LLMOS_API_KEY.")
    typer.echo(key["key"])


def _hides(anonymise: dict[str, Any] | None) -> str:
    """Return what a key hides, in a word."""
    if anonymise is None:
        return "-"
    return anonymise["action"] if anonymise["answers"] else f"{anonymise['action']}, not in answers"


def _anonymise(text: str) -> dict[str, Any]:
    """Return what ``--anonymise`` says; whether its values are good the server knows."""
    settings: dict[str, Any] = {}
    for part in () if text.strip() == "on" else text.split():
        name, equals, value = part.partition("=")
        if not equals:
            raise InvalidRequestError(
                f"--anonymise is `on` or settings as KEY=VALUE, not {part!r}", param="anonymise"
            )
        switch = {"true": True, "false": False}.get(value, value)
        settings[name] = value.split(",") if name == "types" else switch
    return settings


@app.command("list")
def list_keys(
    as_json: JsonOption = False, server: ServerOption = None, home: HomeOption = None
) -> None:
    """List API keys; the keys themselves are never shown again.

    Examples:
      llmos keys list
    """
    with open_client(server, home) as client:
        rows = client.keys()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("id", "name", "role", "models", "hides", "made", "state"),
        (
            (
                key["id"],
                key["name"],
                key["role"],
                " ".join(key["models"] or ()) or "all",
                _hides(key["anonymise"]),
                age(key["created_at"]),
                "revoked" if key["revoked_at"] else "active",
            )
            for key in rows
        ),
        empty="no keys",
    )


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Key id (`llmos keys list`).")],
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Revoke an API key; it stops working at once.

    Examples:
      llmos keys revoke 5f2a9c01
    """
    with open_client(server, home) as client:
        client.revoke_key(key_id)
    typer.echo(f"key {key_id} is revoked")
