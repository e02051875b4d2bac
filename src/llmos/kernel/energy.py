"""The energy this machine takes, where it tells: RAPL for processors, NVML for NVIDIA devices.

A counter that cannot be read is left out; a machine without any tells None, never 0. Whose energy
it was, `rate` says: it goes by compute seconds.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

POWERCAP = Path("/sys/class/powercap")
_ZONE = re.compile(r"intel-rapl:\d+")
"""Top zones: what lies in them, such as ``intel-rapl:0:1``, is counted in them. AMD's are called
the same; ``intel-rapl-mmio`` is another view of the same package."""
_MICRO, _MILLI = 1e-6, 1e-3


class Counter(Protocol):
    """One counter of energy that only rises, or starts over beyond its range."""

    name: str

    def joules(self) -> float | None:
        """Return the joules since the last call, or since it was made; None: it cannot be read."""
        ...


class RaplZone:
    """One processor package, by its directory of the kernel's powercap interface.

    Raises:
        OSError, ValueError: it cannot be read. Most systems let only root do that.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.name = f"RAPL {_text(directory / 'name')}"
        self._range_uj = int(_text(directory / "max_energy_range_uj"))
        self._last_uj = self._read_uj()

    def joules(self) -> float | None:
        """Return the joules since the last call. It must come before the counter is round twice:
        some minutes at full load."""
        try:
            now_uj = self._read_uj()
        except (OSError, ValueError):
            return None
        passed_uj = now_uj - self._last_uj
        self._last_uj = now_uj
        return (passed_uj if passed_uj >= 0 else passed_uj + self._range_uj) * _MICRO

    def _read_uj(self) -> int:
        return int(_text(self._directory / "energy_uj"))


class NvmlDevice:
    """One NVIDIA device, by its handle.

    Raises:
        pynvml.NVMLError: it does not tell; those before Volta do not.
    """

    def __init__(self, nvml: Any, index: int) -> None:
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self.name = f"NVML device {index}"
        self._last_mj = self._read_mj()

    def joules(self) -> float | None:
        """Return the joules since the last call."""
        try:
            now_mj = self._read_mj()
        except self._nvml.NVMLError:
            return None
        passed_mj, self._last_mj = now_mj - self._last_mj, now_mj
        return passed_mj * _MILLI if passed_mj >= 0 else None  # the driver was loaded anew

    def _read_mj(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))


class EnergyMeter:
    """Every counter of this machine that can be read.

    Args:
        powercap: the kernel's powercap directory.

    Attributes:
        is_locked: whether a processor counts its energy but lets this process not read it.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        packages = _packages(powercap)
        readable = list(_readable(packages))
        self.is_locked = len(readable) < len(packages)
        self._counters: list[Counter] = [*readable, *_devices()]

    @property
    def names(self) -> list[str]:
        """What is counted; empty: this machine does not tell."""
        return [counter.name for counter in self._counters]

    def read(self) -> float | None:
        """Return the joules that this machine took since the last call; None: it does not tell."""
        told = [joules for one in self._counters if (joules := one.joules()) is not None]
        return sum(told) if told else None


def reader() -> Callable[[], float | None] | None:
    """Return what reads a meter of this machine; None where there is nothing to read."""
    meter = EnergyMeter()
    return meter.read if meter.names else None


def rate(joules: float, compute_s: float, passed_s: float) -> float:
    """Return the joules of one compute second, where a machine took ``joules`` in ``passed_s``
    seconds and ``compute_s`` were computed in them, by all together.

    What the machine takes while nobody computes is nobody's: where less was computed than time
    passed, only that part of the joules is given out.
    """
    whole_s = max(compute_s, passed_s)
    return joules / whole_s if whole_s > 0 else 0.0


def _packages(powercap: Path) -> list[Path]:
    """Return the directories of the processor packages; ``psys`` would count them once more."""
    try:
        zones = sorted(path for path in powercap.iterdir() if _ZONE.fullmatch(path.name))
    except OSError:
        return []
    return [zone for zone in zones if _is_package(zone)]


def _is_package(zone: Path) -> bool:
    try:
        return _text(zone / "name").startswith("package")
    except (OSError, ValueError):
        return False


def _readable(packages: list[Path]) -> Iterator[RaplZone]:
    for directory in packages:
        with contextlib.suppress(OSError, ValueError):
            yield RaplZone(directory)


def _devices() -> Iterator[NvmlDevice]:
    """Yield the NVIDIA devices that tell; none without the optional package nvidia-ml-py."""
    try:
        import pynvml as nvml
    except ImportError:
        return
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError:
        return
    for index in range(count):
        with contextlib.suppress(nvml.NVMLError):
            yield NvmlDevice(nvml, index)


def _text(path: Path) -> str:
    return path.read_text("ascii").strip()
