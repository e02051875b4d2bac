"""llmos: an operating system for language models. `load_model` and `connect` are the front door.

Importing this loads nothing heavy: no torch, no HTTP library, no web framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llmos.models.families import Family
    from llmos.sdk.client import Client
    from llmos.sdk.connect import Endpoint
    from llmos.sdk.models import Model
    from llmos.settings import Settings

__all__ = ["__version__", "architectures", "connect", "load_model"]


def __getattr__(name: str) -> str:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("llmos")
    raise AttributeError(f"module 'llmos' has no attribute {name!r}")


def connect(
    url: str | None = None, api_key: str | None = None, home: Path | str | None = None
) -> Client:
    """Return a client of the server at ``url`` or ``LLMOS_URL``, else of this home's server.

    Where no server runs on the home, one is started inside this process, for as long as it lives.

    Raises:
        UnreachableError: the server that was named does not answer.
    """
    import os

    from llmos.sdk import connect as sdk

    if url or os.environ.get("LLMOS_URL"):
        return sdk.connect(url, api_key, home)
    from llmos.sdk.client import Client
    from llmos.settings import load_settings

    settings = load_settings({"home": home})
    endpoint = sdk.find_server(settings)
    if endpoint is None:
        endpoint = _start_or_join(settings)
    key = api_key or os.environ.get("LLMOS_API_KEY") or sdk.read_admin_key(settings)
    return Client(endpoint, key)


def _start_or_join(settings: Settings) -> Endpoint:
    from llmos.errors import HomeLockedError
    from llmos.sdk.connect import wait_for_server
    from llmos.server.process import start_embedded

    try:
        return start_embedded(settings)
    except HomeLockedError:  # another process took the home meanwhile and is starting
        return wait_for_server(settings, timeout_s=15.0)


def load_model(name: str, *, url: str | None = None, api_key: str | None = None) -> Model:
    """Return a model by reference ("starter-chat", "my-model:3") or task ("machine_translation").

    Raises:
        ModelNotFoundError: the server has no such model.
        UnreachableError: the server does not answer.
    """
    from llmos.sdk.models import Model

    client = connect(url, api_key)
    return Model(client, client.model(name))


def architectures() -> list[Family]:
    """Return the kinds of network that can be trained from scratch, each with a line of account and
    its paper. A recipe names one as ``model.architecture``."""
    from llmos.models.families import FAMILIES

    return list(FAMILIES)
