"""Energy by a fake sysfs: what is counted, what cannot be read, and whose it is."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llmos.kernel import energy
from llmos.kernel.energy import EnergyMeter

RANGE_UJ = 1_000_000_000


@pytest.fixture(autouse=True)
def no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def zone(root: Path, directory: str, name: str, energy_uj: int = 0) -> Path:
    path = root / directory
    path.mkdir()
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (path / "energy_uj").write_text(f"{energy_uj}\n")
    return path / "energy_uj"


def test_the_packages_are_summed_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0")
    second = zone(tmp_path, "intel-rapl:1", "package-1", 5_000_000)
    others = [
        zone(tmp_path, "intel-rapl:0:0", "core"),
        zone(tmp_path, "intel-rapl:2", "psys"),
        zone(tmp_path, "intel-rapl-mmio:0", "package-0"),
        zone(tmp_path, "dtpm", "package-9"),
    ]
    meter = EnergyMeter(tmp_path)
    assert meter.names == ["RAPL package-0", "RAPL package-1"]
    assert not meter.is_locked
    for path in (first, *others):
        path.write_text("3000000")
    second.write_text("5500000")
    assert meter.read() == pytest.approx(3.5)
    assert meter.read() == 0.0


def test_a_counter_that_starts_over_is_followed(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", RANGE_UJ - 2_000_000)
    meter = EnergyMeter(tmp_path)
    counter.write_text("1000000")
    assert meter.read() == pytest.approx(3.0)


def test_a_machine_that_does_not_tell_says_none_not_nothing(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "missing"):
        meter = EnergyMeter(root)
        assert (meter.names, meter.is_locked, meter.read()) == ([], False, None)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_that_only_root_may_read_is_known_to_be_there(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0").chmod(0)
    meter = EnergyMeter(tmp_path)
    assert (meter.names, meter.is_locked, meter.read()) == ([], True, None)


def test_a_counter_without_sense_is_left_out(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0").write_text("watts")
    good = zone(tmp_path, "intel-rapl:1", "package-1")
    meter = EnergyMeter(tmp_path)
    assert (meter.names, meter.is_locked) == (["RAPL package-1"], True)
    good.write_text("garbage")
    assert meter.read() is None


def test_devices_that_tell_are_counted_and_others_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    millijoules = {0: 1_000, 1: None}

    class NVMLError(Exception):
        pass

    def total(handle: int) -> int:
        value = millijoules[handle]
        if value is None:
            raise NVMLError
        return value

    nvml = SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    module = ModuleType("pynvml")
    vars(module).update(vars(nvml))
    monkeypatch.setitem(sys.modules, "pynvml", module)
    meter = EnergyMeter(tmp_path)
    assert meter.names == ["NVML device 0"]
    millijoules[0] = 3_500
    assert meter.read() == pytest.approx(2.5)
    millijoules[0] = None
    assert meter.read() is None


@pytest.mark.parametrize(
    ("computed_s", "passed_s", "joules_per_s"),
    [(5.0, 5.0, 20.0), (1.0, 5.0, 20.0), (10.0, 5.0, 10.0), (0.0, 0.0, 0.0)],
)
def test_idle_energy_is_nobodys_and_busy_energy_is_shared(
    computed_s: float, passed_s: float, joules_per_s: float
) -> None:
    assert energy.rate(100.0, computed_s, passed_s) == joules_per_s
