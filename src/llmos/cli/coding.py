"""Commands for networks with a bottleneck: encode, decode, interpolate."""

from __future__ import annotations

from typing import Annotated

import typer

from llmos.cli.connection import open_client
from llmos.cli.options import HomeOption, ServerOption
from llmos.cli.tasks import PANEL, TextArgument, read_text
from llmos.errors import InvalidRequestError

ModelOption = Annotated[str, typer.Option("--model", help="An autoencoder, or a vae.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("encode", rich_help_panel=PANEL)(encode)
    app.command("decode", rich_help_panel=PANEL)(decode)
    app.command("interpolate", rich_help_panel=PANEL)(interpolate)


def encode(
    model: ModelOption,
    text: TextArgument = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Turn a text into its code, printed in hexadecimal digits.

    Examples:
      llmos encode "The soup was great." --model my-autoencoder
    """
    with open_client(server, home) as client:
        typer.echo(client.encode(read_text(text), model).hex())


def decode(
    model: ModelOption,
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="In hexadecimal; standard input else.")
    ] = None,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Turn a code into the text that it stands for.

    Examples:
      llmos encode "The soup was great." --model my-vae | llmos decode --model my-vae
    """
    try:
        given = bytes.fromhex(read_text(code))
    except ValueError:
        raise InvalidRequestError("the code must be hexadecimal digits, two a byte") from None
    with open_client(server, home) as client:
        typer.echo(client.decode(given, model))


def interpolate(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="The text to begin with.")],
    last: Annotated[str, typer.Argument(metavar="LAST", help="The text to end with.")],
    model: ModelOption,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Texts, both ends included.")] = 5,
    server: ServerOption = None,
    home: HomeOption = None,
) -> None:
    """Print the texts whose codes lie between those of two texts.

    Examples:
      llmos interpolate "The soup was great." "这家店很好" --model my-vae --steps 7
    """
    with open_client(server, home) as client:
        for text in client.interpolate(first, last, steps, model):
            typer.echo(text)
