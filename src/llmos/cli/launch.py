"""Starting and stopping this machine's llmos server as a background process.

The server itself is `llmos up --foreground` in a session of its own; its output goes to
`logs/server.log`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmos.errors import ConflictError, LlmosError, UnreachableError
from llmos.settings import Settings

if TYPE_CHECKING:
    from llmos.sdk.connect import Endpoint

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05


def start_background(settings: Settings, flags: Mapping[str, Any]) -> Endpoint:
    """Start a server on ``settings.home`` and return where it listens once it is ready.

    Args:
        settings: the resolved settings.
        flags: the settings given as flags, handed on as ``--name value``.

    Raises:
        LlmosError: the server ended or was not ready in time; the message is the server's own.
    """
    settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings.logs_path.mkdir(exist_ok=True)
    log_path = settings.logs_path / "server.log"
    command = server_command(flags)
    with log_path.open("ab") as log:
        at = time.strftime("%Y-%m-%d %H:%M:%S")
        log.write(f"{at} starting llmos on {settings.home}\n".encode())
        log.flush()
        log_start = log.tell()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return _wait_ready(process, settings, log_path, log_start)


def server_command(flags: Mapping[str, Any]) -> list[str]:
    """Return the command that serves in the foreground with these settings as flags."""
    command = [sys.executable, "-P", "-m", "llmos.cli.main", "up", "--foreground"]
    for name, value in flags.items():
        flag = f"--{name.replace('_', '-')}"
        command += [flag] if value is True else [flag, str(value)]
    return command


def _wait_ready(
    process: subprocess.Popen[bytes], settings: Settings, log_path: Path, log_start: int
) -> Endpoint:
    from llmos.sdk.connect import find_server

    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None and not home_is_owned(settings):
            raise _start_error(process.returncode, log_path, log_start)
        endpoint = find_server(settings)
        if endpoint is not None and _is_ready(endpoint):
            return endpoint
        time.sleep(POLL_S)
    raise UnreachableError(
        f"the server was not ready after {START_TIMEOUT_S:.0f} s: {log_path} says why"
    )


def home_is_owned(settings: Settings) -> bool:
    """Return whether some llmos process holds the lock of this home."""
    import fcntl

    try:
        with (settings.run_path / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _is_ready(endpoint: Endpoint) -> bool:
    from llmos.sdk.client import Client

    with Client(endpoint) as client:
        try:
            client.ready()
        except LlmosError:
            return False
    return True


def _start_error(exit_code: int, log_path: Path, log_start: int) -> LlmosError:
    """Return the error a server that would not start printed as its last line."""
    with log_path.open("rb") as log:
        log.seek(log_start)
        lines = log.read().decode("utf-8", "replace").splitlines()
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if not said:
        return LlmosError(f"the server stopped as it started (exit {exit_code}): see {log_path}")
    error = LlmosError(said[-1])
    error.exit_code = exit_code
    return error


def stop(settings: Settings) -> bool:
    """Stop the server that owns ``settings.home`` and wait until it has given the home up.

    Returns:
        False where none was running.

    Raises:
        ConflictError: it is still running after ``STOP_TIMEOUT_S``.
    """
    from llmos.sdk.connect import connect, find_server

    if find_server(settings) is None:
        return False
    pid = server_pid(settings)
    with connect(home=settings.home, environ={}) as client:
        client.shutdown()
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while home_is_owned(settings):
        if time.monotonic() > deadline:
            raise ConflictError(
                f"the server (process {pid}) is still running after {STOP_TIMEOUT_S:.0f} s: "
                f"`kill -9 {pid}` ends it, and nothing accepted is lost"
            )
        time.sleep(POLL_S)
    return True


def server_pid(settings: Settings) -> int | None:
    """Return the process id the running server wrote, or None."""
    import json

    try:
        written = json.loads((settings.run_path / "server.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    pid = written.get("pid") if isinstance(written, dict) else None
    return pid if isinstance(pid, int) else None
