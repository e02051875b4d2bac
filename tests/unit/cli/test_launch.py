"""Starting the server in the background: what its parent says when it does not start."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest

from llmos.cli import launch
from llmos.errors import LlmosError
from llmos.settings import Settings, load_settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings({"home": tmp_path / "home"}, {})


def start(settings: Settings, monkeypatch: pytest.MonkeyPatch, script: str) -> LlmosError:
    """Start ``script`` in the server's place and return the error of its failure."""
    monkeypatch.setattr(launch, "server_command", lambda _: [sys.executable, "-c", script])
    with pytest.raises(LlmosError) as caught:
        launch.start_background(settings, {})
    return caught.value


def test_the_flags_are_handed_on(settings: Settings) -> None:
    command = launch.server_command({"port": 9, "behind_proxy": True, "home": settings.home})
    assert command[1:6] == ["-P", "-m", "llmos.cli.main", "up", "--foreground"]
    assert command[6:] == ["--port", "9", "--behind-proxy", "--home", str(settings.home)]


def test_the_server_s_own_error_and_exit_code_are_passed_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import sys; print('starting'); print('error: port 8642 is in use'); sys.exit(5)"
    error = start(settings, monkeypatch, script)
    assert (error.message, error.exit_code) == ("port 8642 is in use", 5)


def test_a_crash_points_to_the_log(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    error = start(settings, monkeypatch, "raise RuntimeError('boom')")
    assert str(settings.logs_path / "server.log") in error.message
    assert "boom" in (settings.logs_path / "server.log").read_text()


def test_only_the_newest_start_is_looked_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(settings, monkeypatch, "print('error: an old one')")
    error = start(settings, monkeypatch, "import sys; sys.exit(3)")
    assert "old" not in error.message
    assert "exit 3" in error.message


def test_the_home_is_for_its_owner_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(settings, monkeypatch, "")
    assert settings.home.stat().st_mode & 0o077 == 0


def test_a_home_is_owned_while_its_lock_is_held(settings: Settings) -> None:
    assert not launch.home_is_owned(settings)
    settings.run_path.mkdir(parents=True)
    with (settings.run_path / "lock").open("w") as lock:
        assert not launch.home_is_owned(settings)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert launch.home_is_owned(settings)
    assert not launch.home_is_owned(settings)


def test_no_server_is_stopped_where_none_runs(settings: Settings) -> None:
    assert launch.stop(settings) is False
    assert launch.server_pid(settings) is None
