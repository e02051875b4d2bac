from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmos.errors import UnreachableError
from llmos.sdk.connect import Endpoint, connect, find_server, read_admin_key, wait_for_server
from llmos.settings import Settings, load_settings

URL = "http://127.0.0.1:1"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    record = {"pid": 1, "url": URL, "socket": None, "version": "0"}
    (tmp_path / "run" / "server.json").write_text(json.dumps(record))
    (tmp_path / "admin.key").write_text("llmos_admin\n")
    return tmp_path


def key_for(home: Path, url: str | None = None, **environ: str) -> str | None:
    client = connect(url, home=home, environ=environ)
    return client.transport._api_key


def test_the_admin_key_goes_to_this_homes_server_only(home: Path) -> None:
    assert key_for(home, URL) == "llmos_admin"
    assert key_for(home, "127.0.0.1:1/") == "llmos_admin"
    assert key_for(home, LLMOS_URL=URL) == "llmos_admin"
    for other in ("http://127.0.0.1:2", "http://evil.example", "https://127.0.0.1:1"):
        assert key_for(home, other) is None


def test_a_given_key_wins(home: Path) -> None:
    assert key_for(home, URL, LLMOS_API_KEY="llmos_mine") == "llmos_mine"
    client = connect(URL, "llmos_arg", home, environ={"LLMOS_API_KEY": "llmos_mine"})
    assert client.transport._api_key == "llmos_arg"


def test_no_server_says_how_to_start_one(home: Path) -> None:
    with pytest.raises(UnreachableError, match="llmos up"):
        connect(home=home, environ={})


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"url": "http://127.0.0.1:1"}'])
def test_a_server_that_does_not_answer_is_none(home: Path, text: str) -> None:
    (home / "run" / "server.json").write_text(text)
    assert find_server(load_settings({"home": home}, {})) is None


def test_a_socket_that_is_gone_is_no_server(home: Path) -> None:
    record = {"url": URL, "socket": str(home / "run" / "gone.sock")}
    (home / "run" / "server.json").write_text(json.dumps(record))
    assert find_server(Settings(home=home)) is None


def test_waiting_for_a_server_has_an_end(home: Path) -> None:
    with pytest.raises(UnreachableError, match="did not answer"):
        wait_for_server(Settings(home=home), timeout_s=0.0)


def test_no_readable_admin_key_is_none(tmp_path: Path) -> None:
    assert read_admin_key(Settings(home=tmp_path)) is None


def test_an_endpoint_shows_the_socket_first() -> None:
    from llmos.sdk.client import Client

    assert repr(Client(Endpoint(URL, "/run/s"))) == "Client('/run/s')"


def test_importing_llmos_loads_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "httpx", "pydantic", "fastapi", "sqlalchemy", "tokenizers"]
    code = f"import llmos, sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_front_door_names_what_it_has() -> None:
    import llmos

    assert llmos.__version__
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = llmos.nothing_of_the_kind
