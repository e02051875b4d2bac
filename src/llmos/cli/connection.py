"""How a command gets its client: of the server it was pointed at, or of this machine's own.

Where none runs on this machine, it is started in the background.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmos.errors import UnreachableError
from llmos.settings import Settings, load_settings

if TYPE_CHECKING:
    from llmos.sdk.client import Client


def local_settings(home: Path | None) -> Settings:
    """Return the settings of this machine's own llmos."""
    return load_settings({"home": home})


def open_client(server: str | None, home: Path | None, *, start: bool = True) -> Client:
    """Return a client to the server of ``--server`` or LLMOS_URL, else to the one of this home.

    Where none runs on this home, one is started in the background and said so on stderr.

    Args:
        server: URL of another server; None means this machine's own.
        home: this machine's llmos home; None means LLMOS_HOME or ~/.llmos.
        start: whether a local server may be started.

    Raises:
        UnreachableError: nothing runs and ``start`` is false.
        LlmosError: the server would not start.
    """
    from llmos.sdk.connect import connect, find_server

    if server:
        return connect(url=server, home=home)
    settings = local_settings(home)
    if find_server(settings) is None:
        if not start:
            raise UnreachableError("llmos is not running: `llmos up` starts it")
        _start(settings)
    return connect(home=settings.home)


def _start(settings: Settings) -> None:
    from llmos.cli.launch import start_background
    from llmos.cli.output import note

    note("llmos is not running: starting it in the background ...")
    endpoint = start_background(settings, {"home": settings.home})
    note(f"llmos is ready at {endpoint.url} (`llmos down` stops it)")
