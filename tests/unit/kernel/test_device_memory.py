from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from llmos.kernel.device_memory import MIB, free_device_bytes

SAID = "0, GPU-11aa-22, 40000\n1, GPU-33bb-44, 30000\n2, GPU-55cc-66, 20000\n"


def said(text: str) -> int | None:
    return free_device_bytes("0", lambda command: text)


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, 20_000 * MIB),
        ("0,1", 30_000 * MIB),
        ("GPU-11aa", 40_000 * MIB),
        ("GPU-33bb-44, GPU-11aa-22", 30_000 * MIB),
        ("MIG-77dd", None),
        ("", None),
    ],
)
def test_the_device_with_the_least_free_counts_among_those_that_may_be_used(
    visible: str | None, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert free_device_bytes(visible, lambda command: SAID) == expected


def test_the_environment_says_which_devices_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert free_device_bytes(run=lambda command: SAID) == 30_000 * MIB


@pytest.mark.parametrize(
    "text", ["", "No devices were found\n", "0, GPU-11aa-22, [N/A]\n", "0, GPU-11aa-22\n"]
)
def test_a_driver_that_does_not_say_is_not_believed(text: str) -> None:
    assert said(text) is None
    assert said("0, GPU-11aa-22, 1\n") == MIB


@pytest.mark.parametrize(
    "error", [FileNotFoundError(), subprocess.CalledProcessError(9, "nvidia-smi")]
)
def test_without_the_tool_nobody_can_tell(error: Exception) -> None:
    def run(command: Sequence[str]) -> str:
        raise error

    assert free_device_bytes("0", run) is None
