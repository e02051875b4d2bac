"""Following a stream of numbered events, taken up again where it was when the server goes away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llmos.errors import UnreachableError
from llmos.sdk.transport import Json, Transport

RECONNECT_S = 30.0
"""How long to wait for a server that went away while it was followed."""
RECONNECT_EVERY_S = 0.5


def followed(
    transport: Transport,
    path: str,
    after: int | None,
    follow: bool,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> Iterator[Json]:
    """Yield the events at ``path`` that come after an event id (None: as the server has it).

    Raises:
        UnreachableError: the server went away: for half a minute, or at all without ``follow``.
    """
    lost_at: float | None = None
    while True:
        params = {"follow": str(follow).lower()}
        if after is not None:
            params["after"] = str(after)
        try:
            for event in transport.events("GET", path, params=params):
                lost_at = None
                if number := int(event["id"]):  # what is only live has none
                    after = number
                yield event
            return
        except UnreachableError:
            now = clock()
            lost_at = now if lost_at is None else lost_at
            if not follow or now - lost_at > RECONNECT_S:
                raise
            sleep(RECONNECT_EVERY_S)
