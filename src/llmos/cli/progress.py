"""Progress of what takes a while, on stderr: jobs followed by their events, files sent and fetched.

On a terminal these are live bars; elsewhere a line now and then.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llmos.cli.output import note
from llmos.errors import CancelledError, JobFailedError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

    from llmos.sdk.client import Client

DONE = frozenset({"succeeded", "failed", "cancelled"})
BAR_AFTER_S = 1.0
"""Transfers shorter than this show no bar."""
LINE_EVERY_S = 5.0
"""Seconds between lines where stderr is no terminal."""

OnProgress = Callable[[str, int, int], None]


@contextmanager
def transfer(verb: str) -> Iterator[OnProgress]:
    """Yield ``on_progress(file, done_bytes, total_bytes)``; a bar appears after a second."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    task = bar.add_task(verb, total=None)
    begun = time.monotonic()

    def on_progress(file: str, done_bytes: int, total_bytes: int) -> None:
        description = f"{verb} {file}"
        bar.update(task, completed=done_bytes, total=total_bytes, description=description)
        if time.monotonic() - begun >= BAR_AFTER_S and not bar.live.is_started:
            bar.start()

    try:
        yield on_progress
    finally:
        bar.stop()


def follow_job(client: Client, number: int, verb: str) -> dict[str, Any]:
    """Show a job's progress until it ends; return the job.

    Raises:
        JobFailedError: it failed; the message is the job's own.
        CancelledError: somebody cancelled it.
        KeyboardInterrupt: Ctrl-C; the job goes on without us.
    """
    job: dict[str, Any] = client.job(number)
    if job["state"] not in DONE:
        with job_display(verb) as show:
            for event in client.job_events(number):
                show(event)
                if event["type"] == "state" and event["data"]["state"] in DONE:
                    break
        job = client.job(number)
    return require_success(job)


def watch_job(client: Client, number: int, verb: str) -> dict[str, Any]:
    """As `follow_job`, of a job that was just queued; say how to come back to it where Ctrl-C
    leaves it."""
    note(f"job {number} is queued")
    try:
        return follow_job(client, number, verb)
    except KeyboardInterrupt:
        note(
            f"\nDetached; it goes on: `llmos jobs logs {number} -f` follows it, "
            f"`llmos jobs cancel {number}` stops it."
        )
        raise


def require_success(job: dict[str, Any]) -> dict[str, Any]:
    """Return a job that succeeded.

    Raises:
        JobFailedError: it failed.
        CancelledError: it was cancelled.
    """
    if job["state"] == "cancelled":
        raise CancelledError(f"job {job['id']} was cancelled")
    if job["state"] == "failed":
        reason = (job.get("error") or {}).get("message") or "no reason was recorded"
        raise JobFailedError(f"{reason} (job {job['id']}: `llmos jobs logs {job['id']}`)")
    return job


@contextmanager
def job_display(verb: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Yield a function that shows each job event: a live bar on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield LineDisplay(verb)
        return
    from rich.console import Console

    with make_bar(Console(stderr=True)) as bar:
        yield BarDisplay(bar, verb)


def make_bar(console: Console) -> Progress:
    """Return a bar with what was measured below it, so that a narrow terminal shows all."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Measured(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            yield self.make_tasks_table(self.tasks)
            yield Text("\n".join(task.fields["measured"] for task in self.tasks))

    return Measured(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(elapsed_when_finished=False),
        console=console,
    )


class BarDisplay:
    """A live bar: step of total and time left, and what was measured."""

    def __init__(self, bar: Progress, verb: str) -> None:
        self._bar = bar
        self._task = bar.add_task(verb, total=None, measured="")
        self._values: dict[str, float] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        data = event["data"]
        if line := line_of(event):
            self._bar.console.print(line, style="dim", markup=False, highlight=False)
        elif event["type"] == "progress":
            said = describe_metrics(self._values) or data.get("message") or ""
            self._bar.update(
                self._task, completed=data["step"], total=data["total"] or None, measured=said
            )
        elif event["type"] == "metric":
            self._values |= data["values"]
            self._bar.update(
                self._task, completed=data["step"], measured=describe_metrics(self._values)
            )


class LineDisplay:
    """The same as lines, a few a minute and one at the end, for logs and pipes."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._next_at = 0.0
        self._held = ""
        self._values: dict[str, float] = {}
        self._total = 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        data = event["data"]
        if line := line_of(event):
            note(line)
        elif event["type"] == "progress":
            self._total = data["total"]
            said = describe_metrics(self._values) or data.get("message") or ""
            self._say(data["step"], said + self._left())
        elif event["type"] == "metric":
            self._values |= data["values"]
            self._say(data["step"], describe_metrics(self._values) + self._left())
        elif event["type"] == "state" and data["state"] in DONE and self._held:
            note(self._held)

    def _left(self) -> str:
        """How long it will still take, where it is known; a bar shows that by itself."""
        from llmos.cli.output import duration

        eta_s = self._values.get("eta_s", 0.0)
        return f"  {duration(eta_s)} left" if eta_s >= 1 else ""

    def _say(self, step: int, text: str) -> None:
        of = f"/{self._total}" if self._total else ""
        self._held = f"{self._verb}: {step}{of} {text}".rstrip()
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + LINE_EVERY_S
            note(self._held)
            self._held = ""


def line_of(event: Mapping[str, Any]) -> str | None:
    """Return what an event says in a line of its own: of the log, or why the job is tried again."""
    data = event["data"]
    if event["type"] == "log":
        return str(data["line"])
    if event["type"] == "state" and data["state"] == "queued" and (error := data.get("error")):
        return f"queued again: {error['message']}"
    return None


def describe_metrics(values: Mapping[str, float]) -> str:
    """Return the measurements a person watches, e.g. ``loss 1.920  val 1.880  lr 0.001  grad 0.904
    51.2K tok/s  MFU 31%  412 MB  63 W``."""
    from llmos.cli.output import count, percent, size

    parts = []
    if "loss" in values:
        parts.append(f"loss {values['loss']:.3f}")
    if "validation_loss" in values:
        parts.append(f"val {values['validation_loss']:.3f}")
    if "learning_rate" in values:
        parts.append(f"lr {values['learning_rate']:.3g}")
    if "gradient_norm" in values:
        parts.append(f"grad {values['gradient_norm']:.3g}")
    if "tokens_per_s" in values:
        parts.append(f"{count(values['tokens_per_s'])} tok/s")
    if "mfu" in values:
        parts.append(f"MFU {percent(values['mfu'])}")
    if "memory_bytes" in values:
        parts.append(size(round(values["memory_bytes"])))
    if "watts" in values:
        parts.append(f"{values['watts']:.0f} W")
    return "  ".join(parts)
