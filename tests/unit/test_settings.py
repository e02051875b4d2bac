import dataclasses
import re
from pathlib import Path

import pytest

import llmos
from llmos.errors import InvalidRequestError
from llmos.settings import Settings, load_settings

NAMES = """
home host port log_level device threads dtype drafts engines queue_target_s pinned memory_bytes
idle_s yield_s load_wait_s max_workers max_queue itl_target_ms engine_stall_s heartbeat_s
lease_s gc_grace_s max_body_bytes max_upload_bytes allowed_hosts allow_private_webhooks
s3_buckets behind_proxy trust_loopback
"""


def test_a_new_setting_is_a_decision() -> None:
    assert [field.name for field in dataclasses.fields(Settings)] == NAMES.split()


def test_every_setting_says_what_it_is_for() -> None:
    assert all(field.metadata["help"].endswith(".") for field in dataclasses.fields(Settings))


def test_every_setting_is_read_somewhere() -> None:
    package = Path(llmos.__file__).parent
    sources = [path.read_text("utf-8") for path in package.rglob("*.py")]
    unread = [
        field.name
        for field in dataclasses.fields(Settings)
        if not any(re.search(rf"settings\.{field.name}\b", source) for source in sources)
    ]
    assert unread == []


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("port = 1\nthreads = 1\nmax_queue = 1\n")
    environ = {"LLMOS_HOME": str(tmp_path), "LLMOS_PORT": "2", "LLMOS_THREADS": "2"}
    settings = load_settings({"port": 3, "threads": None}, environ)
    assert (settings.port, settings.threads, settings.max_queue) == (3, 2, 1)
    assert settings.host == "127.0.0.1"


def test_a_home_may_be_relative_or_begin_with_a_tilde() -> None:
    assert load_settings({"home": "here"}, {}).home == Path.cwd() / "here"
    assert load_settings({}, {"LLMOS_HOME": "~/there"}).home == Path.home() / "there"


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("true", True), ("ON", True), ("0", False), ("no", False)]
)
def test_switches_are_read_from_words(text: str, value: bool) -> None:
    assert load_settings({}, {"LLMOS_BEHIND_PROXY": text}).behind_proxy is value


@pytest.mark.parametrize(
    ("name", "text"),
    [("LLMOS_PORT", "eight"), ("LLMOS_IDLE_S", "long"), ("LLMOS_BEHIND_PROXY", "x")],
)
def test_a_value_of_the_wrong_type_is_named(name: str, text: str) -> None:
    setting = name.removeprefix("LLMOS_").lower()
    with pytest.raises(InvalidRequestError, match=f"setting {setting} .*{text}"):
        load_settings({}, {name: text})


def test_an_unknown_setting_in_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("prot = 1\n")
    with pytest.raises(InvalidRequestError, match="unknown settings: prot"):
        load_settings({"home": tmp_path}, {})


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("port = \n")
    with pytest.raises(InvalidRequestError, match=r"config\.toml is not valid TOML"):
        load_settings({"home": tmp_path}, {})


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("port", "65536", "at most 65535"),
        ("port", "-1", "at least 0"),
        ("idle_s", "nan", "at least 0"),
        ("log_level", "loud", "one of debug, info, warning, error"),
        ("max_workers", "0", "at least 1"),
    ],
)
def test_a_value_out_of_range_is_named_with_the_range(name: str, value: str, says: str) -> None:
    with pytest.raises(
        InvalidRequestError, match=rf"setting {name} \(environment\) must be {says}"
    ):
        load_settings({}, {f"LLMOS_{name.upper()}": value})


def test_a_lease_outlives_a_missed_heartbeat() -> None:
    with pytest.raises(InvalidRequestError, match="twice heartbeat_s"):
        load_settings({"heartbeat_s": 20, "lease_s": 30}, {})
