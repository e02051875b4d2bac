"""Job handlers, and the kinds that name them."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from llmos.errors import CancelledError, DataError, EngineError, InvalidRequestError
from llmos.kernel.context import JobContext
from llmos.kernel.jobs import JobKind
from llmos.types import JobResult, NewVersion


def double(context: JobContext) -> JobResult:
    """Finish at once."""
    context.log(f"threads {context.threads} {os.environ['OMP_NUM_THREADS']}")
    return JobResult(summary={"doubled": 2 * context.params["value"]})


def tell_devices(context: JobContext) -> JobResult:
    """Say on which devices to compute, once the named pipe is written to."""
    context.log("computing")
    with open(context.params["pipe"]) as pipe:
        pipe.read()
    return JobResult(summary={"devices": list(context.devices)})


def count(context: JobContext) -> JobResult:
    """Count to ``steps``, a checkpoint at each; the first attempt gets stuck at ``stuck_at``."""
    steps, stuck_at = context.params["steps"], context.params.get("stuck_at")
    checkpoint = context.checkpoint_dir / "step"
    step = int(checkpoint.read_text()) if checkpoint.exists() else 0
    context.log(f"from step {step}")
    while step < steps:
        context.raise_if_cancelled()
        step += 1
        checkpoint.write_text(str(step))
        context.metric(step, loss=1.0 / step)
        if step == stuck_at and context.attempt == 1:
            context.log("stuck")
            threading.Event().wait()
    context.progress(step, steps, "done")
    made = context.blobs.put_bytes(b"counted")
    return JobResult(
        summary={"steps": step},
        artifacts=(NewVersion("dataset", context.name, {"data": made}, {}),),
    )


def wait_for_cancel(context: JobContext) -> JobResult:
    """Run until cancelled; with ``deaf``, ignore that and SIGTERM too."""
    if context.params.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    context.log("waiting")
    if context.params.get("deaf"):
        threading.Event().wait()
    while True:
        context.raise_if_cancelled()


def gated(context: JobContext) -> JobResult:
    """The first attempt finishes when the named pipe is written to; later ones at once."""
    if context.attempt == 1:
        context.log("gated")
        with open(context.params["pipe"]) as pipe:
            pipe.read()
    return JobResult(summary={"attempt": context.attempt})


def give_way(context: JobContext) -> JobResult:
    """Log around a pause."""
    context.log("before")
    while not context.should_pause():
        context.raise_if_cancelled()
    context.log("pausing")
    context.wait_while_paused()
    return JobResult(summary={"resumed": True})


def steps(context: JobContext) -> JobResult:
    """Take steps, between which it may be paused, until cancelled."""
    context.log("stepping")
    while True:
        context.wait_while_paused()
        context.raise_if_cancelled()


def resumable(context: JobContext) -> JobResult:
    """The first attempt goes on until it has to leave, and keeps where it was; the next ends."""
    kept = context.checkpoint_dir / "kept"
    if kept.exists():
        return JobResult(summary={"went_on": kept.read_text()})
    context.log("working")
    while not context.is_leaving:
        context.wait_while_paused()
        context.raise_if_cancelled()
    kept.write_text(f"after attempt {context.attempt}")
    raise CancelledError


def parkable(context: JobContext) -> JobResult:
    """Work until its memory was taken and given back."""
    moved: list[str] = []

    def offload() -> Callable[[], None]:
        moved.append("away")
        return lambda: moved.append("back")

    context.on_hold(offload)
    context.log("working")
    while "back" not in moved:
        context.wait_while_paused()
        context.raise_if_cancelled()
    return JobResult(summary={"moved": moved})


def mistake(context: JobContext) -> JobResult:
    """Raise what is the user's fault."""
    raise DataError("The data is empty.")


def own_mistake(context: JobContext) -> JobResult:
    """Raise an error of a class that the server does not know."""

    class OwnError(DataError):
        code = "own_mistake"

    raise OwnError("The loss is no number.")


def crash(context: JobContext) -> JobResult:
    """Raise what nobody foresaw."""
    raise ZeroDivisionError("boom")


def flaky(context: JobContext) -> JobResult:
    """Fail twice in a way that may pass."""
    if context.attempt < 3:
        raise EngineError("not now")
    return JobResult(summary={"attempt": context.attempt})


def die(context: JobContext) -> JobResult:
    """End the process."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def die_loudly(context: JobContext) -> JobResult:
    """Print to both outputs, then end the process."""
    context.log("begun")
    for number in range(30):
        print("line", number, flush=True)
    print("out of luck", file=sys.stderr, flush=True)
    os._exit(1)


def forking(context: JobContext) -> JobResult:
    """Leave a child that holds the socket open, and die."""
    if context.attempt == 1:
        if os.fork() == 0:
            threading.Event().wait()
        os.kill(os.getpid(), signal.SIGKILL)
    return JobResult()


def obstinate(context: JobContext) -> JobResult:
    """Hear no signal that can be ignored, hold the socket open with a child, never end."""
    for number in signal.Signals:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    if os.fork() == 0:
        threading.Event().wait()
    context.log("begun")
    while True:
        pass


def unsendable(context: JobContext) -> JobResult:
    """Return what cannot be sent."""
    return JobResult(summary={"object": object()})


def _any_params(params: dict[str, Any]) -> dict[str, Any]:
    if "refuse" in params:
        raise InvalidRequestError("refuse is not a parameter")
    return params


def _no_memory(params: dict[str, Any]) -> int:
    return int(params.get("bytes", 0))


FUNCTIONS = (
    "double",
    "count",
    "wait_for_cancel",
    "gated",
    "give_way",
    "steps",
    "mistake",
    "own_mistake",
    "crash",
    "flaky",
    "die",
    "die_loudly",
    "forking",
    "obstinate",
    "unsendable",
    "absent",
)
KINDS = {
    name: JobKind(name, f"kernel_children.handlers:{name}", _any_params, _no_memory)
    for name in FUNCTIONS
}
for _name in ("resumable", "parkable"):
    KINDS[_name] = JobKind(
        _name,
        f"kernel_children.handlers:{_name}",
        _any_params,
        _no_memory,
        resumes=True,
        offloads=_name == "parkable",
    )
KINDS["tell_devices"] = JobKind(
    "tell_devices",
    "kernel_children.handlers:tell_devices",
    _any_params,
    lambda params: int(params["bytes"]),
    devices=lambda params: int(params["devices"]),
)
KINDS["light"] = JobKind(
    "light", "kernel_children.handlers:double", _any_params, _no_memory, light=True
)
