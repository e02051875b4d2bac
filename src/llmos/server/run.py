"""Runs the application on sockets that are bound already, until it is asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import uvicorn

from llmos.server.app import create_app
from llmos.server.lifetime import Lifetime

if TYPE_CHECKING:
    from llmos.system import System

GRACE_S = 10
"""Seconds that requests under way have to finish once the server was asked to end."""


async def serve(
    system: System, sockets: Sequence[socket.socket], on_ready: Callable[[], None]
) -> None:
    """Serve ``system`` until SIGTERM, SIGINT or ``POST /api/v1/shutdown``, then finish requests.

    Args:
        system: started already; the caller closes it afterwards.
        sockets: bound stream sockets, TCP and Unix; closed at the end.
        on_ready: called once requests are taken.
    """
    lifetime = Lifetime()
    config = uvicorn.Config(
        create_app(system, lifetime),
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=system.settings.behind_proxy,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config, on_ready)
    with _signals_end(lifetime):
        ending = asyncio.ensure_future(_stop_when_asked(server, lifetime))
        try:
            await server.serve(sockets=list(sockets))
        finally:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn without its signal handling, which would end the process before the caller can."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


async def _stop_when_asked(server: uvicorn.Server, lifetime: Lifetime) -> None:
    await lifetime.ending.wait()
    server.should_exit = True


@contextlib.contextmanager
def _signals_end(lifetime: Lifetime) -> Iterator[None]:
    """Let SIGTERM and SIGINT end the server; only a main thread may be told of signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lifetime.end)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
