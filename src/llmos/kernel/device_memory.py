"""How much memory is free on the NVIDIA devices that this process may use."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence

ASK_WITHIN_S = 20.0
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits")
MIB = 2**20


def run_tool(command: Sequence[str]) -> str:
    """Return what a tool prints. Raises OSError, SubprocessError, UnicodeDecodeError."""
    asked = subprocess.run(command, capture_output=True, check=True, timeout=ASK_WITHIN_S)
    return asked.stdout.decode("ascii")


def free_device_bytes(
    visible: str | None = None, run: Callable[[Sequence[str]], str] = run_tool
) -> int | None:
    """Return what is free on the device with the least of it; None where nobody can tell.

    The least, as which number a device has depends on who counts.

    Args:
        visible: the devices that may be used, as CUDA_VISIBLE_DEVICES, the default, names them.
            Of a part of a device (MIG) this tool does not tell.
    """
    if visible is None:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    try:
        devices = [line.split(", ") for line in run(QUERY).splitlines()]
        free_bytes = [
            int(free_mib) * MIB
            for index, uuid, free_mib in devices
            if names is None or any(name == index or _begins(uuid, name) for name in names)
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return min(free_bytes, default=None)


def _begins(uuid: str, name: str) -> bool:
    """Whether a name is a device's, of which the beginning is enough."""
    return name.startswith("GPU-") and uuid.startswith(name)
