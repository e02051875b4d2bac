"""A job that takes memory, and its kind."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from llmos.kernel.context import JobContext
from llmos.kernel.jobs import JobKind
from llmos.types import JobResult

POLL_S = 0.01


def swell(context: JobContext) -> JobResult:
    """Take ``take_bytes``, say so, and hold them until the file ``until`` is there."""
    held = bytearray(b"x") * context.params["take_bytes"]
    context.log("taken")
    pause = threading.Event()
    while not Path(context.params["until"]).exists():
        context.wait_while_paused()
        context.raise_if_cancelled()
        pause.wait(POLL_S)
    return JobResult(summary={"held": len(held)})


def _as_given(params: dict[str, Any]) -> dict[str, Any]:
    return params


def _declared(params: dict[str, Any]) -> int:
    return int(params["bytes"])


KINDS = {"swell": JobKind("swell", "kernel_children.memory_handlers:swell", _as_given, _declared)}
