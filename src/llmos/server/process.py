"""Serving a home: in the foreground (`llmos up --foreground`) or in a thread of this process.

Both bind their sockets first, open the home, write ``run/server.json`` once requests are taken and
remove it at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from llmos import __version__
from llmos.errors import InvalidRequestError, LlmosError, PortInUseError
from llmos.sdk.connect import Endpoint, server_file
from llmos.security.guard import is_loopback
from llmos.server.gate import trusts_loopback
from llmos.server.run import serve
from llmos.settings import Settings
from llmos.system import System, open_system

SOCKET_PATH_LIMIT_BYTES = 100
"""A Unix socket's address holds 104 bytes on macOS and 108 on Linux."""
BACKLOG = 1024
log = logging.getLogger("llmos.server")
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def run_foreground(settings: Settings) -> None:
    """Serve until SIGTERM, SIGINT or a shutdown request.

    Raises:
        PortInUseError: another program listens on the port.
        InvalidRequestError: the address is not on loopback and no proxy was announced, or
            keyless programs were let in beyond this machine.
        HomeLockedError: another process owns the home.
    """
    _check_bind(settings)
    with _logging_to(logging.StreamHandler(sys.stderr), settings):
        served = _open(settings, with_tcp=True)
        asyncio.run(_serve(*served, on_ready=spare_the_collector))


def spare_the_collector() -> None:
    """Keep what a server begins with out of the garbage collector's way: with these 150,000
    objects a full collection stops every request for a tenth of a second."""
    gc.freeze()


def start_embedded(settings: Settings) -> Endpoint:
    """Serve in a daemon thread of this process, on a Unix socket; return where, once ready.

    Where the home's path is too long for a Unix socket, a free port of loopback is used.

    Raises:
        HomeLockedError: another process owns the home.
    """
    served = _open(settings, with_tcp=False)
    ready = threading.Event()
    failures: list[BaseException] = []

    def main() -> None:
        log_file = logging.FileHandler(settings.logs_path / "server.log")
        try:
            with _logging_to(log_file, settings):
                asyncio.run(_serve(*served, on_ready=ready.set))
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            ready.set()

    threading.Thread(target=main, name="llmos-server", daemon=True).start()
    ready.wait()
    if failures:
        raise LlmosError(f"The embedded server did not start: {failures[0]}") from failures[0]
    return served[2]


def _open(settings: Settings, *, with_tcp: bool) -> tuple[System, list[socket.socket], Endpoint]:
    """Take the home, then the sockets; with neither taken when either cannot be."""
    trusts_loopback(settings)
    system = open_system(settings)
    try:
        return system, *_bind(settings, with_tcp=with_tcp)
    except BaseException:
        system.database.close()
        system.lock.release()
        raise


async def _serve(
    system: System,
    sockets: list[socket.socket],
    endpoint: Endpoint,
    on_ready: Callable[[], None],
) -> None:
    def announce() -> None:
        _write_server_file(system.settings, endpoint)
        log.info("ready at %s (socket %s)", endpoint.url, endpoint.socket)
        on_ready()

    try:
        await system.start()
        await serve(system, sockets, announce)
    finally:
        server_file(system.settings).unlink(missing_ok=True)
        await system.close()


def _check_bind(settings: Settings) -> None:
    if not is_loopback(settings.host) and not settings.behind_proxy:
        raise InvalidRequestError(
            f"llmos will not listen on {settings.host} in the clear: put a TLS proxy before it and "
            "pass --behind-proxy, or keep to 127.0.0.1"
        )


def _bind(settings: Settings, *, with_tcp: bool) -> tuple[list[socket.socket], Endpoint]:
    path = settings.run_path / "llmos.sock"
    fits = len(os.fsencode(path)) <= SOCKET_PATH_LIMIT_BYTES
    sockets: list[socket.socket] = []
    url = "http://llmos"
    if with_tcp or not fits:
        tcp = _bind_tcp(settings.host, settings.port) if with_tcp else _bind_tcp("127.0.0.1", 0)
        sockets.append(tcp)
        host = f"[{settings.host}]" if tcp.family is socket.AF_INET6 else tcp.getsockname()[0]
        url = f"http://{host}:{tcp.getsockname()[1]}"
    if fits:
        sockets.append(_bind_unix(path))
    return sockets, Endpoint(url, str(path) if fits else None)


def _bind_tcp(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} of {host} is in use: stop the other program or pass --port N"
            ) from None
        raise InvalidRequestError(f"cannot listen on {host}:{port}: {error.strerror}") from None


def _bind_unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # a dead owner's; we hold the home's lock
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with _private_files():
        unix.bind(str(path))
    unix.listen(BACKLOG)
    return unix


@contextlib.contextmanager
def _private_files() -> Iterator[None]:
    previous = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(previous)


def _write_server_file(settings: Settings, endpoint: Endpoint) -> None:
    record = {"pid": os.getpid(), "version": __version__, "url": endpoint.url}
    record["socket"] = endpoint.socket
    path = server_file(settings)
    temp = path.with_suffix(".tmp")
    temp.write_text(json.dumps(record), "utf-8")
    temp.replace(path)


@contextlib.contextmanager
def _logging_to(handler: logging.Handler, settings: Settings) -> Iterator[None]:
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logger = logging.getLogger("llmos")
    logger.addHandler(handler)
    logger.setLevel(settings.log_level.upper())
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
