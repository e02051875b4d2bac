"""A home is opened by one process at a time, served in both ways, and given back whole."""

import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.errors import HomeLockedError, InvalidRequestError, PortInUseError
from llmos.sdk.connect import find_server, read_admin_key
from llmos.server.process import run_foreground
from llmos.settings import Settings, load_settings
from llmos.system import open_system

EMBED = """
import json, llmos
client = llmos.connect()
print(json.dumps([client.version()["version"], [m["name"] for m in client.models()]]))
"""


def settings_at(home: Path, **flags: object) -> Settings:
    return load_settings({"home": home, **flags}, {})


async def test_an_open_home_refuses_a_second_owner_and_is_free_again_once_closed(
    tmp_path: Path,
) -> None:
    settings = settings_at(tmp_path / "home")
    system = open_system(settings)
    with pytest.raises(HomeLockedError, match=f"process {os.getpid()}"):
        open_system(settings)
    await system.start()
    await system.close()
    await open_system(settings).close()


async def test_the_first_opening_makes_a_private_admin_key(tmp_path: Path) -> None:
    settings = settings_at(tmp_path / "home")
    system = open_system(settings)
    try:
        key = read_admin_key(settings)
        assert key is not None
        assert system.keys.authenticate(key).role == "admin"
        assert stat.S_IMODE(settings.admin_key_path.stat().st_mode) == 0o600
        assert stat.S_IMODE(settings.home.stat().st_mode) == 0o700
    finally:
        await system.close()


def test_a_port_in_use_is_named_and_leaves_the_home_free(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        settings = settings_at(tmp_path / "home", port=port)
        with pytest.raises(PortInUseError, match=f"port {port}"):
            run_foreground(settings)
    system = open_system(settings)
    system.database.close()
    system.lock.release()


def test_it_does_not_listen_beyond_this_machine_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="--behind-proxy"):
        run_foreground(settings_at(tmp_path / "home", host="0.0.0.0"))
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("depth", [1, 12], ids=["unix-socket", "path-too-long-for-one"])
def test_python_alone_opens_the_home_and_leaves_nothing_behind(tmp_path: Path, depth: int) -> None:
    home = tmp_path.joinpath(*["a-long-name"] * depth)
    environ = {**os.environ, "LLMOS_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", EMBED], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    version, names = json.loads(done.stdout)
    assert version
    assert "starter-chat" in names
    assert find_server(settings_at(home)) is None


def test_an_embedded_server_can_end_and_start_again_without_doubling_its_log(
    tmp_path: Path,
) -> None:
    code = """
import logging, llmos
for _ in range(2):
    client = llmos.connect()
    assert len(logging.getLogger("llmos").handlers) == 1
    client.shutdown()
    client.close()
    import threading
    [thread.join(30) for thread in threading.enumerate() if thread.name == "llmos-server"]
assert logging.getLogger("llmos").handlers == []
"""
    environ = {**os.environ, "LLMOS_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
