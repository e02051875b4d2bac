"""Plugins: built-ins and strangers through one contract, and a stranger's failure harms no one."""

from __future__ import annotations

import importlib.metadata
import logging
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest

from llmos.errors import ConflictError
from llmos.kernel.jobs import JobKind
from llmos.plugins import hookspecs
from llmos.plugins.hookspecs import hookimpl
from llmos.plugins.manager import load_plugins


def kind(name: str) -> JobKind:
    return JobKind(name, "llmos.errors:by_code", lambda params: params, lambda params: 0)


class BuiltIn:
    @hookimpl
    def llmos_job_kinds(self) -> list[JobKind]:
        return [kind("import")]

    @hookimpl
    def llmos_engines(self) -> dict[str, str]:
        return {"echo": "llmos.engines.echo:EchoEngine"}


class Stranger:
    @hookimpl
    def llmos_job_kinds(self) -> list[JobKind]:
        return [kind("distil")]


class Thief:
    @hookimpl
    def llmos_job_kinds(self) -> list[JobKind]:
        return [kind("import")]


class Crasher:
    @hookimpl
    def llmos_job_kinds(self) -> list[JobKind]:
        raise ValueError("boom")


class Misnamed:
    @hookimpl
    def llmos_job_kindz(self) -> list[JobKind]:
        return []


def point(name: str, loaded: Any) -> Any:
    def load() -> Any:
        if isinstance(loaded, Exception):
            raise loaded
        return loaded

    return SimpleNamespace(name=name, load=load)


def test_built_ins_and_strangers_register_alike() -> None:
    plugins = load_plugins([BuiltIn()], [point("distil", Stranger())])
    assert set(plugins.job_kinds()) == {"import", "distil"}
    assert plugins.engines() == {"echo": "llmos.engines.echo:EchoEngine"}
    assert plugins.failed == {}


@pytest.mark.parametrize(
    ("loaded", "reason"),
    [
        (ImportError("no module"), "ImportError: no module"),
        (Misnamed(), "PluginValidationError"),
        (Crasher(), "ValueError: boom"),
        (Thief(), "ConflictError: the job kind 'import' is already registered"),
    ],
)
def test_a_failing_stranger_is_named_logged_and_skipped(
    loaded: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        plugins = load_plugins([BuiltIn()], [point("bad", loaded), point("distil", Stranger())])
        kinds = plugins.job_kinds()
    assert set(kinds) == {"import", "distil"}
    assert plugins.failed["bad"].startswith(reason)
    assert "'bad'" in caplog.text
    assert set(plugins.job_kinds()) == {"import", "distil"}


def test_a_stranger_never_takes_a_built_ins_name_whatever_the_order() -> None:
    plugins = load_plugins([BuiltIn()], [point("thief", Thief())])
    assert plugins.job_kinds()["import"] is not None
    assert list(plugins.failed) == ["thief"]


def test_a_failing_built_in_raises() -> None:
    with pytest.raises(ValueError, match="boom"):
        load_plugins([Crasher()], []).job_kinds()
    with pytest.raises(ConflictError):
        load_plugins([BuiltIn(), Thief()], []).job_kinds()
    with pytest.raises(pluggy.PluginValidationError):
        load_plugins([Misnamed()], [])


def test_installed_plugins_come_from_the_entry_point_group(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(group: str) -> list[Any]:
        asked.append(group)
        return [point("distil", Stranger())]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert set(load_plugins([]).job_kinds()) == {"distil"}
    assert asked == ["llmos"]


def test_every_hook_is_documented() -> None:
    hooks = [value for name, value in vars(hookspecs).items() if name.startswith("llmos_")]
    assert hooks
    assert all(hook.__doc__ for hook in hooks)
