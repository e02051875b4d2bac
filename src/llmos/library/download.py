"""Downloads one file of the hub so that an interruption costs only what was not yet received.

huggingface_hub's own download starts over in every process; this one goes on where the last
attempt's partial file ends, through the same HTTP client.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub.utils import get_session, hf_raise_for_status

from llmos.storage.files import disk_errors

_FRUITLESS_TRIES = 3
_TIMEOUT = httpx2.Timeout(30.0)


@dataclass(frozen=True, slots=True)
class Transfer:
    """A file to fetch: ``size`` in bytes, ``part`` where it is collected across attempts."""

    url: str
    headers: Mapping[str, str]
    size: int
    part: Path


def fetch(transfer: Transfer, on_bytes: Callable[[int], None]) -> None:
    """Bring ``transfer.part`` to ``transfer.size`` bytes, continuing what is there.

    A broken connection is taken up again at once as long as each try brings some bytes.

    Args:
        on_bytes: called with the bytes held so far after every chunk; may raise to stop.

    Raises:
        httpx2.TransportError: three tries in a row brought nothing.
        HfHubHTTPError: the hub refuses.
        DiskFullError: there is no room.
    """
    fruitless = 0
    while (held := _held(transfer)) < transfer.size:
        try:
            _receive(transfer, held, on_bytes)
        except httpx2.TransportError:
            fruitless = 0 if _held(transfer) > held else fruitless + 1
            if fruitless == _FRUITLESS_TRIES:
                raise
        else:
            fruitless = 0 if _held(transfer) > held else fruitless + 1
            if fruitless == _FRUITLESS_TRIES:
                raise httpx2.RemoteProtocolError("the hub closes the connection early")


def _held(transfer: Transfer) -> int:
    """Return the bytes held; a partial file that cannot be right is dropped."""
    if not transfer.part.exists():
        return 0
    size = transfer.part.stat().st_size
    if size > transfer.size:
        transfer.part.unlink()
        return 0
    return size


def _receive(transfer: Transfer, held: int, on_bytes: Callable[[int], None]) -> None:
    """Make one request for the rest of the file and append what comes."""
    headers = dict(transfer.headers) | {"Accept-Encoding": "identity"}
    if held:
        headers["Range"] = f"bytes={held}-"
    with get_session().stream("GET", transfer.url, headers=headers, timeout=_TIMEOUT) as response:
        hf_raise_for_status(response)
        resumed = response.status_code == httpx2.codes.PARTIAL_CONTENT
        held = held if resumed else 0
        with transfer.part.open("ab" if resumed else "wb") as file, disk_errors():
            for chunk in response.iter_bytes():  # as they come: nothing received is lost
                file.write(chunk)
                held += len(chunk)
                if held > transfer.size:
                    return
                on_bytes(held)
