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


def _setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    limits = {"least": least, "most": most, "choices": choices}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, resolved."""

    home: Path = _setting(Path("~/.llmos"), "Where everything is kept.")
    host: str = _setting("127.0.0.1", "Address to listen on.")
    port: int = _setting(8642, "Port to listen on.", least=0, most=65535)
    log_level: str = _setting(
        "info",
        "Least severe message to log: debug, info, warning, error.",
        choices=("debug", "info", "warning", "error"),
    )
    device: str = _setting("auto", "Device of engines and jobs: auto, cpu or cuda:N.")
    threads: int = _setting(0, "CPU threads of engines and jobs; 0 means all cores.", least=0)
    dtype: str = _setting(
        "auto",
        "Weights that a CPU computes with: auto (quantised ones where there are, else float32, or "
        "bfloat16 where only that fits), stored (never quantised ones), float32 or bfloat16.",
        choices=("auto", "stored", "float32", "bfloat16"),
    )
    drafts: str = _setting(
        "", "Small models that guess for others, comma-separated: big=small guesses for big."
    )
    engines: int = _setting(
        1, "Engine processes, each with a part of the cores and the memory, or a GPU.", least=1
    )
    queue_target_s: float = _setting(
        1.0, "Wait for a model beyond which another engine loads it too.", least=0.01
    )
    pinned: str = _setting("", "Models that are always in memory, comma-separated.")
    memory_bytes: int = _setting(
        0, "Memory that may be reserved; 0 means 80% of the free.", least=0
    )
    idle_s: float = _setting(
        900.0, "Seconds without a request after which a model is unloaded.", least=0
    )
    yield_s: float = _setting(
        2.0, "Seconds after an interactive answer for which jobs that gave way still wait.", least=0
    )
    load_wait_s: float = _setting(
        300.0, "Seconds a request waits for its model; then it is answered 503.", least=0
    )
    max_workers: int = _setting(1, "Jobs that compute at the same time.", least=1)
    max_queue: int = _setting(
        256, "Answers of one class under way at one model; more are answered 429.", least=1
    )
    itl_target_ms: float = _setting(
        200.0, "Longest pause between tokens of an interactive or standard stream.", least=1
    )
    engine_stall_s: float = _setting(
        120.0, "Seconds of silence after which an engine that has work is restarted.", least=1
    )
    heartbeat_s: float = _setting(10.0, "Seconds between a job worker's heartbeats.", least=0.01)
    lease_s: float = _setting(
        30.0, "Seconds without a heartbeat after which a job is taken over.", least=0.03
    )
    gc_grace_s: float = _setting(
        86400.0, "Age below which unreferenced blobs are never swept.", least=0
    )
    max_body_bytes: int = _setting(16 * 2**20, "Largest JSON request body.", least=1024)
    max_upload_bytes: int = _setting(64 * 2**30, "Largest single uploaded file.", least=1)
    allowed_hosts: str = _setting("", "More Host names to accept, comma-separated.")
    allow_private_webhooks: bool = _setting(
        False,
        "Let webhooks go to this machine and this network too, and datasets come from there.",
    )
    s3_buckets: str = _setting(
        "",
        "S3 buckets, or BUCKET/PREFIX, comma-separated, that every user may add datasets from with "
        "this server's credentials.",
    )
    behind_proxy: bool = _setting(False, "A TLS proxy stands before this server.")
    trust_loopback: bool = _setting(
        False, "Let programs of this machine generate, embed and read without a key."
    )

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
                _check(setting, values[setting.name], origin)
                break
    settings = Settings(**values)
    if settings.lease_s < 2 * settings.heartbeat_s:
        raise InvalidRequestError(
            f"lease_s ({settings.lease_s:g}) must be at least twice heartbeat_s "
            f"({settings.heartbeat_s:g})"
        )
    return settings


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
    wanted = {"int": "whole number", "float": "number", "bool": "switch (true or false)"}.get(
        target.__name__, "text"
    )
    raise InvalidRequestError(f"setting {name} ({origin}) must be a {wanted}, not {value!r}")


def _check(setting: dataclasses.Field[Any], value: Any, origin: str) -> None:
    limits = setting.metadata
    least, most, choices = limits["least"], limits["most"], limits["choices"]
    if choices and value not in choices:
        fault = f"one of {', '.join(choices)}"
    elif least is not None and not value >= least:  # not a number is not at least anything
        fault = f"at least {least:g}"
    elif most is not None and value > most:
        fault = f"at most {most:g}"
    else:
        return
    raise InvalidRequestError(f"setting {setting.name} ({origin}) must be {fault}, not {value}")
