"""`llmos doctor`: look at all llmos needs on this machine and say what to do about each finding."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sqlite3
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Literal

import typer

from llmos.cli.connection import local_settings
from llmos.cli.options import HomeOption, JsonOption
from llmos.cli.output import print_json, print_table, size
from llmos.errors import LlmosError
from llmos.settings import Settings

MIN_PYTHON = (3, 11)
SAFE_SQLITE = (3, 51, 3)
"""Older ones can corrupt a WAL when two connections write or checkpoint at once."""
LOW_DISK_BYTES, NO_DISK_BYTES = 5 * 10**9, 500 * 10**6
LOW_MEMORY_BYTES = 2 * 10**9
RAPL_FILES = "/sys/class/powercap/intel-rapl:*/energy_uj"
Status = Literal["ok", "warn", "fail"]
_BY_TORCH = "int8 models are as small without it, but slower"
_EXTENSION_ADVICE = {
    "switched off": f"unset LLMOS_EXTENSION; {_BY_TORCH}",
    "cpu": f"nothing to do: {_BY_TORCH}",
    "compiler": f"install g++, or set CXX, and start llmos again; {_BY_TORCH}",
}
"""What to do about the obstacles that `engines.native.extension` names."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; ``advice`` is empty where nothing needs doing."""

    check: str
    status: Status
    found: str
    advice: str = ""


def register(app: typer.Typer) -> None:
    """Add this module's command to the command line."""
    app.command("doctor", rich_help_panel="Server")(doctor)


def doctor(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """Check this machine for everything llmos needs; exit 1 where something must be fixed.

    Examples:
      llmos doctor
      llmos doctor --json
    """
    settings = local_settings(home)
    findings = [finding for check in CHECKS for finding in check(settings)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            ("check", "status", "found", "what to do"),
            ((f.check, f.status, f.found, f.advice) for f in findings),
            empty="nothing was checked",
        )
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def check_python(settings: Settings) -> Iterator[Finding]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info < MIN_PYTHON:
        yield Finding("python", "fail", found, "install Python 3.11 or newer")
    else:
        yield Finding("python", "ok", found)


def check_packages(settings: Settings) -> Iterator[Finding]:
    for package in ("llmos", "torch", "transformers", "tokenizers", "safetensors"):
        try:
            yield Finding(package, "ok", installed(package))
        except PackageNotFoundError:
            yield Finding(package, "fail", "not installed", f"pip install {package}")


def check_device(settings: Settings) -> Iterator[Finding]:
    has_gpu = shutil.which("nvidia-smi") is not None
    cores = os.cpu_count() or 1
    if has_gpu and installed("torch").endswith("+cpu"):
        yield Finding(
            "device", "warn", "NVIDIA device, but torch is the CPU build", "make clean && make up"
        )
    else:
        yield Finding("device", "ok", "NVIDIA device" if has_gpu else f"CPU, {cores} cores")


def check_extension(settings: Settings) -> Iterator[Finding]:
    """The C++ extension that runs quantised models fast; `llmos doctor` does not build it."""
    from llmos.engines.native.extension import status

    found = status()
    if found.state == "built":
        yield Finding("extension", "ok", f"built: {found.path}")
    elif found.state == "unbuilt":
        when = "will be built when the first quantised model is loaded (some seconds)"
        yield Finding("extension", "ok", f"{when}, by {found.compiler}")
    else:
        yield Finding(
            "extension", "warn", f"absent: {found.why}", _EXTENSION_ADVICE[found.obstacle]
        )


def check_sqlite(settings: Settings) -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        advice = "3.51.3 fixes a rare WAL bug; llmos keeps to one writer, so it is safe as it is"
        yield Finding("sqlite", "warn", sqlite3.sqlite_version, advice)
    else:
        yield Finding("sqlite", "ok", sqlite3.sqlite_version)


def check_disk(settings: Settings) -> Iterator[Finding]:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{size(free)} free at {folder}"
    if free < NO_DISK_BYTES:
        yield Finding("disk", "fail", found, "free some space; `llmos gc` may help")
    elif free < LOW_DISK_BYTES:
        yield Finding("disk", "warn", found, "larger models need more; `llmos gc` may help")
    else:
        yield Finding("disk", "ok", found)


def check_memory(settings: Settings) -> Iterator[Finding]:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{size(memory.available)} free of {size(memory.total)}"
    if memory.available < LOW_MEMORY_BYTES:
        yield Finding("memory", "warn", found, "close other programs before loading large models")
    else:
        yield Finding("memory", "ok", found)


def check_energy(settings: Settings) -> Iterator[Finding]:
    """Whether `llmos usage` can tell energy. It may do without, so nothing here is a fault."""
    from llmos.kernel.energy import EnergyMeter

    meter = EnergyMeter()
    advice = f"to see it in `llmos usage`, let the user that runs llmos read {RAPL_FILES}"
    found = f"measured by {', '.join(meter.names)}" if meter.names else "this machine does not tell"
    if meter.is_locked and not meter.names:
        found = "measured, but only root may read it"
    yield Finding("energy", "ok", found, advice if meter.is_locked else "")


def check_home(settings: Settings) -> Iterator[Finding]:
    home = settings.home
    if not home.exists():
        yield Finding("home", "ok", f"{home} will be made by the first start")
        return
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        yield Finding("home", "fail", f"{home} cannot be written", f"chown {home} to yourself")
    elif open_to_others(home):
        yield Finding("home", "warn", f"{home} is open to other users", f"chmod 700 {home}")
    else:
        yield Finding("home", "ok", str(home))
    key = settings.admin_key_path
    if not key.exists():
        yield Finding("admin key", "ok", "will be made by the first start")
    elif open_to_others(key):
        yield Finding("admin key", "fail", f"{key} is open to other users", f"chmod 600 {key}")
    else:
        yield Finding("admin key", "ok", str(key))


def open_to_others(path: Path) -> bool:
    """Return whether group or others have any right on ``path``."""
    return bool(path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO))


def check_server(settings: Settings) -> Iterator[Finding]:
    from llmos.sdk.client import Client
    from llmos.sdk.connect import find_server

    endpoint = find_server(settings)
    if endpoint is None:
        yield _check_port(settings)
        yield Finding("server", "ok", "not running (`llmos up` starts it)")
        return
    with Client(endpoint) as client:
        try:
            client.ready()
        except LlmosError as error:
            yield Finding("server", "fail", error.message, "`llmos logs` says why")
        else:
            yield Finding("server", "ok", f"ready at {endpoint.url}")


def _check_port(settings: Settings) -> Finding:
    where = f"{settings.host}:{settings.port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            advice = "stop the other program, or `llmos up --port N`"
            return Finding("port", "fail", f"{where}: {error.strerror}", advice)
    return Finding("port", "ok", f"{where} is free")


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
    check_python,
    check_packages,
    check_device,
    check_extension,
    check_sqlite,
    check_disk,
    check_memory,
    check_energy,
    check_home,
    check_server,
)
