"""What the doctor finds on a machine that is not well."""

from __future__ import annotations

import json
import socket
from collections import namedtuple
from pathlib import Path

import pytest

from llmos.cli import doctor, main
from llmos.engines.native.extension import Status
from llmos.settings import load_settings

Usage = namedtuple("Usage", "total used free")


def status_of(check: str, findings: list[doctor.Finding]) -> str:
    return next(finding.status for finding in findings if finding.check == check)


@pytest.mark.parametrize(("free", "status"), [(10**11, "ok"), (10**9, "warn"), (10**8, "fail")])
def test_disk_space(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int, status: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(free, 0, free))
    settings = load_settings({"home": tmp_path / "not" / "there"}, {})
    assert status_of("disk", list(doctor.check_disk(settings))) == status


def test_a_home_or_key_open_to_others_is_found(tmp_path: Path) -> None:
    settings = load_settings({"home": tmp_path}, {})
    settings.admin_key_path.write_text("llmos_x_y")
    tmp_path.chmod(0o755)
    settings.admin_key_path.chmod(0o644)
    findings = list(doctor.check_home(settings))
    assert status_of("home", findings) == "warn"
    assert status_of("admin key", findings) == "fail"
    tmp_path.chmod(0o700)
    settings.admin_key_path.chmod(0o600)
    findings = list(doctor.check_home(settings))
    assert status_of("home", findings) == status_of("admin key", findings) == "ok"


def test_a_port_in_use_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = load_settings({"home": tmp_path, "port": port}, {})
        findings = list(doctor.check_server(settings))
    assert status_of("port", findings) == "fail"
    assert str(port) in findings[0].found


@pytest.mark.parametrize(("version", "status"), [((3, 40, 1), "warn"), ((3, 51, 3), "ok")])
def test_an_old_sqlite_is_warned_about(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    version: tuple[int, int, int],
    status: str,
) -> None:
    monkeypatch.setattr("sqlite3.sqlite_version_info", version)
    settings = load_settings({"home": tmp_path}, {})
    assert status_of("sqlite", list(doctor.check_sqlite(settings))) == status


@pytest.mark.parametrize(
    ("status", "found", "advice"),
    [
        (Status("switched off", "LLMOS_EXTENSION=0 says so"), "LLMOS_EXTENSION=0", "unset"),
        (Status("cpu", "the CPU lacks avx512_vnni"), "avx512_vnni", "nothing to do"),
        (Status("compiler", "no compiler was found"), "no compiler", "install g++"),
    ],
)
def test_without_the_extension_it_says_why_what_that_means_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: Status, found: str, advice: str
) -> None:
    monkeypatch.setattr("llmos.engines.native.extension.status", lambda: status)
    (finding,) = doctor.check_extension(load_settings({"home": tmp_path}, {}))
    assert finding.status == "warn" and finding.found.startswith("absent: ")
    assert found in finding.found and advice in finding.advice
    assert "slower" in finding.advice


def test_an_extension_that_is_built_or_will_be_is_fine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    library = tmp_path / "decoder.so"
    status = Status(compiler="/usr/bin/g++", path=library)
    monkeypatch.setattr("llmos.engines.native.extension.status", lambda: status)
    settings = load_settings({"home": tmp_path}, {})
    (finding,) = doctor.check_extension(settings)
    assert finding.status == "ok" and "will be built" in finding.found
    assert "/usr/bin/g++" in finding.found
    library.write_bytes(b"")
    (finding,) = doctor.check_extension(settings)
    assert (finding.status, finding.found) == ("ok", f"built: {library}")


def test_a_failure_gives_exit_1_and_every_finding_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(1, 0, 1))
    assert main.invoke(["doctor", "--json", "--home", str(tmp_path)]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert all(finding["advice"] for finding in findings if finding["status"] != "ok")


@pytest.mark.parametrize(
    ("names", "is_locked", "found", "advice"),
    [
        ([], False, "this machine does not tell", ""),
        ([], True, "measured, but only root may read it", "powercap"),
        (["RAPL package-0", "NVML device 0"], False, "RAPL package-0, NVML device 0", ""),
    ],
)
def test_whether_energy_can_be_read_is_said_and_never_a_fault(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    names: list[str],
    is_locked: bool,
    found: str,
    advice: str,
) -> None:
    class Meter:
        def __init__(self) -> None:
            self.names, self.is_locked = names, is_locked

    monkeypatch.setattr("llmos.kernel.energy.EnergyMeter", Meter)
    (finding,) = doctor.check_energy(load_settings({"home": tmp_path}, {}))
    assert finding.status == "ok"
    assert found in finding.found
    assert advice in finding.advice and bool(advice) == bool(finding.advice)
