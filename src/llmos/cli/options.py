"""Options that several commands share, each defined once. Nothing here does any work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        envvar="LLMOS_URL",
        metavar="URL",
        help="Use the llmos server at this URL instead of this machine's own.",
    ),
]
HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home",
        envvar="LLMOS_HOME",
        metavar="DIR",
        help="Where everything is kept (~/.llmos by default).",
    ),
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="Do not wait: print the job's number.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="Model: name, name:version or name@alias.")
]
JobArgument = Annotated[int, typer.Argument(metavar="N", help="Job number, as `llmos jobs` shows.")]
