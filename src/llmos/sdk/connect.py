"""Where the server is, and with which key: as told, by the environment, or this home's own."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmos.errors import LlmosError, UnreachableError
from llmos.settings import Settings, load_settings

if TYPE_CHECKING:
    from llmos.sdk.client import Client


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address: over the Unix socket where one is given, else over TCP at ``url``."""

    url: str
    socket: str | None = None


def server_file(settings: Settings) -> Path:
    """The file in which a running server says where it is."""
    return settings.run_path / "server.json"


def recorded_endpoint(settings: Settings) -> Endpoint | None:
    """Return what ``run/server.json`` says, whether or not that server still runs."""
    try:
        record = json.loads(server_file(settings).read_text("utf-8"))
        return Endpoint(url=str(record["url"]), socket=record.get("socket") or None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find_server(settings: Settings) -> Endpoint | None:
    """Return the endpoint of this home's running server, or None when none answers."""
    from llmos.sdk.client import Client

    endpoint = recorded_endpoint(settings)
    if endpoint is None or (endpoint.socket and not _is_listening(endpoint.socket)):
        return None
    try:
        with Client(endpoint, timeout_s=5.0) as client:
            client.health()
    except LlmosError:
        return None
    return endpoint


def _is_listening(path: str) -> bool:
    """Whether some process listens on the Unix socket: one that was killed leaves the file."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


def wait_for_server(settings: Settings, timeout_s: float) -> Endpoint:
    """Return the endpoint once this home's server, being started elsewhere, answers.

    Raises:
        UnreachableError: it did not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while (endpoint := find_server(settings)) is None:
        if time.monotonic() > deadline:
            raise UnreachableError(
                f"The llmos server on {settings.home} did not answer within {timeout_s:.0f} s: "
                "`llmos logs` says why."
            )
        time.sleep(0.05)
    return endpoint


def read_admin_key(settings: Settings) -> str | None:
    """Return the key the first start wrote, or None where this user cannot read one."""
    try:
        return settings.admin_key_path.read_text("ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def connect(
    url: str | None = None,
    api_key: str | None = None,
    home: Path | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
) -> Client:
    """Return a client of the server at ``url``, of ``LLMOS_URL``, or of this home.

    The key is ``api_key``, ``LLMOS_API_KEY``, or the home's admin key; the admin key is sent only
    to the server that the home itself records, never to another address.

    Raises:
        UnreachableError: no address was given and no server runs on this home.
        InvalidRequestError: a setting is not valid.
    """
    from llmos.sdk.client import Client

    environ = os.environ if environ is None else environ
    settings = load_settings({"home": home}, environ)
    url = url or environ.get("LLMOS_URL") or None
    api_key = api_key or environ.get("LLMOS_API_KEY") or None
    if url is not None:
        return Client(_normalized(url), api_key or _key_for(url, settings))
    endpoint = find_server(settings)
    if endpoint is None:
        raise UnreachableError(
            f"No llmos server runs on {settings.home}: start one with `llmos up`, "
            "or set LLMOS_URL to the address of one that does."
        )
    return Client(endpoint, api_key or read_admin_key(settings))


def _normalized(url: str) -> Endpoint:
    return Endpoint(url=(url if "://" in url else f"http://{url}").rstrip("/"))


def _key_for(url: str, settings: Settings) -> str | None:
    recorded = recorded_endpoint(settings)
    if recorded is None or _normalized(recorded.url) != _normalized(url):
        return None
    return read_admin_key(settings)
