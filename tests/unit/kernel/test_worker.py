from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from llmos.errors import CancelledError, DataError, EngineError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import (
    JobDone,
    JobFailed,
    JobLog,
    JobMetric,
    JobProgress,
    Paused,
    StartJob,
)
from llmos.kernel.worker import attempt
from llmos.types import JobResult

sent: list[object] = []


def succeed(context: JobContext) -> JobResult:
    return JobResult(summary={"name": context.name})


def wrong(context: JobContext) -> JobResult:
    raise DataError("empty")


def passing(context: JobContext) -> JobResult:
    raise EngineError("later")


def unforeseen(context: JobContext) -> JobResult:
    raise KeyError("x")


def cancelled(context: JobContext) -> JobResult:
    context.cancel()
    context.raise_if_cancelled()
    raise AssertionError


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobContext:
    monkeypatch.setitem(sys.modules, "test_worker_handlers", sys.modules[__name__])
    sent.clear()
    start = StartJob(
        job_id=1,
        fence=1,
        attempt=1,
        handler="",
        name="n",
        params={"a": 1},
        owner="o",
        home=str(tmp_path),
        checkpoint_dir=str(tmp_path / "jobs" / "1"),
        threads=2,
        heartbeat_s=10.0,
    )
    times = iter([0.0, 0.05, 0.1, 0.15])
    return JobContext(start, sent.append, monotonic=lambda: next(times))


def run(name: str, context: JobContext) -> JobDone | JobFailed:
    return attempt(f"test_worker_handlers:{name}", context)


def test_a_handler_gets_its_context_and_its_result_is_sent(context: JobContext) -> None:
    assert run("succeed", context) == JobDone(JobResult(summary={"name": "n"}))


@pytest.mark.parametrize(
    ("name", "failed"),
    [
        ("wrong", JobFailed("invalid_data", "empty", retryable=False)),
        ("passing", JobFailed("engine_error", "later", retryable=True)),
        ("unforeseen", JobFailed("internal_error", "KeyError: 'x'", retryable=True)),
        ("cancelled", JobFailed("cancelled", CancelledError().message, retryable=False)),
    ],
)
def test_errors_say_whether_they_may_pass(
    context: JobContext, name: str, failed: JobFailed
) -> None:
    assert run(name, context) == failed


def test_only_what_nobody_foresaw_leaves_a_traceback_in_the_log(
    context: JobContext, capsys: pytest.CaptureFixture[str]
) -> None:
    run("passing", context)
    assert capsys.readouterr().err == "attempt 1: later\n"
    run("unforeseen", context)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("handler", ["test_worker_handlers", "no_such_module:f", "os:no_such", ""])
def test_a_handler_that_cannot_be_found_is_final(context: JobContext, handler: str) -> None:
    failed = attempt(handler, context)
    assert isinstance(failed, JobFailed)
    assert not failed.retryable
    assert "cannot be used" in failed.message


def test_reports_are_sent_and_progress_is_thinned_out(context: JobContext) -> None:
    context.progress(1, 100)
    context.progress(2, 100)
    context.progress(3, 100, "third")
    context.progress(100, 100)
    context.log("x" * 20_000)
    context.metric(3, loss=1, accuracy=0.5)
    assert sent == [
        JobProgress(1, 100),
        JobProgress(3, 100, "third"),
        JobProgress(100, 100),
        JobLog("x" * 10_000),
        JobMetric(3, {"loss": 1.0, "accuracy": 0.5}),
    ]


def test_a_paused_handler_says_so_and_waits_until_it_may_go_on(context: JobContext) -> None:
    context.wait_while_paused()
    context.pause(True)
    assert context.should_pause()
    went_on = threading.Thread(target=context.wait_while_paused)
    went_on.start()
    assert went_on.is_alive()
    context.pause(False, still_s=2.5)
    went_on.join(timeout=10)
    assert not went_on.is_alive()
    assert sent in ([], [Paused(True), Paused(False)])  # it may have been let go before it came
    assert context.still_s == 2.5


def test_a_paused_handler_goes_on_when_it_is_cancelled(context: JobContext) -> None:
    context.pause(True)
    context.cancel()
    context.wait_while_paused()
    context.pause(True)
    assert not context.should_pause()
    with pytest.raises(CancelledError):
        context.raise_if_cancelled()


def test_a_paused_handler_goes_on_when_it_is_to_leave(context: JobContext) -> None:
    context.pause(True)
    assert not context.is_leaving
    context.leave()
    context.wait_while_paused()
    context.pause(True)
    assert not context.should_pause()
    assert context.is_leaving
    context.raise_if_cancelled()


def offloading(context: JobContext, moved: list[str], and_then: Callable[[], None]) -> None:
    """Let a context's memory be moved, and then something happen while it is away."""

    def offload() -> Callable[[], None]:
        moved.append("away")
        and_then()
        return lambda: moved.append("back")

    context.on_hold(offload)


def test_a_paused_handler_gives_its_memory_when_asked_to_and_has_it_back_after(
    context: JobContext,
) -> None:
    moved: list[str] = []
    offloading(context, moved, lambda: context.pause(False, 1.0))
    context.pause(True, give_memory=True)
    context.wait_while_paused()
    assert moved == ["away", "back"]
    assert sent == [Paused(True), Paused(True, gave_memory=True), Paused(False)]


def test_one_that_is_only_paused_keeps_its_memory(context: JobContext) -> None:
    moved: list[str] = []
    offloading(context, moved, lambda: None)
    context.pause(True)
    threading.Timer(0.0, context.pause, (False,)).start()
    context.wait_while_paused()
    assert moved == []


def test_one_that_is_cancelled_does_not_take_its_memory_back(context: JobContext) -> None:
    moved: list[str] = []
    offloading(context, moved, context.cancel)
    context.pause(True, give_memory=True)
    context.wait_while_paused()
    assert moved == ["away"]


def test_the_worker_starts_light() -> None:
    """No torch, no database library: what a worker imports before its handler."""
    code = "import sys, llmos.kernel.worker; print({'torch', 'sqlalchemy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "set()"
