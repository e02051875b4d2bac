"""The one table of settings: name, type, default, help; flag > environment > file > default.

A setting named ``idle_s`` is ``LLMOS_IDLE_S`` in the environment, ``idle_s = 300`` in
``$LLMOS_HOME/config.toml`` and ``--idle-s`` where a command takes it.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmos.errors import InvalidRequestError


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, resolved."""

    home: Path = _setting(Path("~/.llmos"), "Where everything is kept.")
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8642, "Port to listen on.")
    log_level: str = _setting("info", "Least severe message to log: debug, info, warning, error.")
    device: str = _setting("auto", "Device of the engine: auto, cpu or cuda:N.")
    threads: int = _setting(0, "CPU threads of engines and jobs; 0 means all cores.")
    memory_bytes: int = _setting(0, "Memory that may be reserved; 0 means 80% of the free.")
    idle_s: float = _setting(900.0, "Seconds without a request after which a model is unloaded.")
    max_workers: int = _setting(1, "Jobs that run at the same time.")
    max_queue: int = _setting(256, "Requests that may wait per model before 429 is answered.")
    heartbeat_s: float = _setting(10.0, "Seconds between a job worker's heartbeats.")
    lease_s: float = _setting(30.0, "Seconds without a heartbeat after which a job is taken over.")
    gc_grace_s: float = _setting(86400.0, "Age below which unreferenced blobs are never swept.")
    max_body_bytes: int = _setting(16 * 2**20, "Largest JSON request body.")
    max_upload_bytes: int = _setting(64 * 2**30, "Largest single uploaded file.")
    allowed_hosts: str = _setting("", "More Host names to accept, comma-separated.")
    behind_proxy: bool = _setting(False, "A TLS proxy stands before this server.")

    @property
    def database_path(self) -> Path:
        return self.home / "llmos.db"

    @property
    def blobs_path(self) -> Path:
        return self.home / "blobs"

    @property
    def run_path(self) -> Path:
        return self.home / "run"

    @property
    def logs_path(self) -> Path:
        return self.home / "logs"

    @property
    def admin_key_path(self) -> Path:
        return self.home / "admin.key"


def load_settings(
    flags: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Resolve every setting. ``flags`` maps names to values; None values count as not given.

    Raises:
        InvalidRequestError: a value has the wrong type or the file names an unknown setting.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    home = Path(given.get("home") or environ.get("LLMOS_HOME") or "~/.llmos")
    home = home.expanduser().absolute()
    from_file = _read_file(home / "config.toml")
    values: dict[str, Any] = {"home": home}
    for setting in dataclasses.fields(Settings):
        if setting.name == "home":
            continue
        sources = (
            ("flag", given, setting.name),
            ("environment", environ, f"LLMOS_{setting.name.upper()}"),
            ("config.toml", from_file, setting.name),
        )
        for origin, source, key in sources:
            if key in source:
                kind = type(setting.default)
                values[setting.name] = _convert(setting.name, source[key], kind, origin)
                break
    return Settings(**values)


def _read_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{path} is not valid TOML: {error}") from error
    known = {setting.name for setting in dataclasses.fields(Settings)} - {"home"}
    if unknown := sorted(set(table) - known):
        raise InvalidRequestError(f"{path} has unknown settings: {', '.join(unknown)}")
    return table


def _convert(name: str, value: Any, target: type, origin: str) -> Any:
    if target is bool and isinstance(value, str):
        lowered = value.lower()
        if lowered in {"1", "true", "yes", "on"}:
            return True
        if lowered in {"0", "false", "no", "off", ""}:
            return False
    elif not isinstance(value, bool) or target is bool:
        try:
            return target(value)
        except (TypeError, ValueError):
            pass
    wanted = target.__name__
    raise InvalidRequestError(f"setting {name} ({origin}) must be a {wanted}, not {value!r}")
