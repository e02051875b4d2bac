"""Giving way changes no bit of what training ends with, whichever way it is held or taken off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.unit.training.tiny import make_job, make_recipe

from llmos.errors import CancelledError
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric, Paused

WEIGHTS = ("weights.safetensors", "optimizer.safetensors")
DROPOUT = {"n_layer": 1, "n_head": 2, "n_embd": 16, "attn_pdrop": 0.1, "resid_pdrop": 0.1}
STEPS = 8
WORKER = """
import json, sys, threading
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric, Paused, StartJob
from llmos.training import handler

def send(message):
    if isinstance(message, JobMetric):
        print("step", message.step, flush=True)
        sys.stdin.readline()
        context.pause(True)
    elif isinstance(message, Paused) and message.paused:
        print("paused", flush=True)
        threading.Timer(0.01, context.pause, (False, 0.01)).start()

start = StartJob(job_id=1, fence=1, attempt=1, handler="", name="tiny",
                 params=json.loads(sys.argv[1]), owner="admin", home=sys.argv[2],
                 checkpoint_dir=sys.argv[3], threads=1, heartbeat_s=10.0)
context = JobContext(start, send)
handler.run(context)
"""


def recipe(**changes: Any) -> dict[str, Any]:
    model = {"architecture": "gpt2", "config": DROPOUT}
    quick = {"steps": STEPS, "accumulate": 2, "checkpoint_every": STEPS, "eval_every": 4}
    return make_recipe("generate", model=model, **(quick | changes))


def run(context: JobContext) -> None:
    from llmos.training import handler

    handler.run(context)


def last_checkpoint(directory: Path) -> dict[str, bytes]:
    found = directory / "checkpoints" / f"step-{STEPS:08d}"
    return {name: (found / name).read_bytes() for name in WEIGHTS}


def curve(directory: Path) -> list[tuple[float, float]]:
    found = directory / "checkpoints" / f"step-{STEPS:08d}" / "state.json"
    return [(point["step"], point["loss"]) for point in json.loads(found.read_text())["curve"]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed")
    run(make_job(directory, recipe())[0])
    return directory / "checkpoint"


@pytest.mark.parametrize("processes", [1, 2])
def test_training_held_at_every_step_in_both_ways_reaches_the_very_weights(
    processes: int, undisturbed: Path, tmp_path: Path
) -> None:
    its = recipe(processes=processes)
    if processes > 1:
        run(make_job(tmp_path / "together", its)[0])
        undisturbed = tmp_path / "together" / "checkpoint"
    params = {"recipe": its, "name": "tiny", "data": {}, "base": None}
    held = tmp_path / "held"
    held.mkdir()
    command = [sys.executable, "-c", WORKER, json.dumps(params), str(tmp_path), str(held)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    pipes["start_new_session"] = True  # as a job has, whose processes are held together
    said = []
    with subprocess.Popen(command, env=environment, bufsize=1, **pipes) as trainer:
        process = psutil.Process(trainer.pid)
        for line in trainer.stdout:
            said.append(line.split()[0])
            if said[-1] == "step":
                all_of_them = [process, *process.children()]
                assert len(all_of_them) == processes
                os.killpg(trainer.pid, signal.SIGSTOP)
                while any(one.status() != psutil.STATUS_STOPPED for one in all_of_them):
                    pass
                os.killpg(trainer.pid, signal.SIGCONT)
                trainer.stdin.write("\n")
    assert trainer.returncode == 0
    assert said == [word for _ in range(STEPS - 1) for word in ("step", "paused")] + ["step"]
    assert last_checkpoint(held) == last_checkpoint(undisturbed)


def test_training_that_is_preempted_goes_on_to_the_very_weights_and_curve(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps the step it has done, and the losses that no report has told of yet."""
    from llmos.training import trainer

    monkeypatch.setattr(trainer, "REPORTS", 2)
    run(make_job(tmp_path / "whole", recipe())[0])
    context, sent = make_job(tmp_path / "left", recipe())
    num_batches, wait = 0, context.wait_while_paused

    def leave_in_the_middle_of_step_6() -> None:
        nonlocal num_batches
        num_batches += 1
        if num_batches == 11:
            context.leave()
        wait()

    context.wait_while_paused = leave_in_the_middle_of_step_6  # type: ignore[method-assign]
    with pytest.raises(CancelledError):
        run(context)
    checkpoints = tmp_path / "left" / "checkpoint" / "checkpoints"
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000006"]
    assert [m.step for m in sent if isinstance(m, JobMetric)] == [1, 4]
    run(make_job(tmp_path / "left", recipe())[0])
    whole, left = (tmp_path / name / "checkpoint" for name in ("whole", "left"))
    assert last_checkpoint(left) == last_checkpoint(whole) == last_checkpoint(undisturbed)
    assert curve(left) == curve(whole)


def test_the_time_it_is_held_is_not_counted_in_its_pace(tmp_path: Path) -> None:
    """It is held for an hour by its clock."""
    from llmos.training import handler, trainer

    context, sent = make_job(tmp_path, recipe())
    clock = 0.0

    def tick() -> float:
        nonlocal clock
        clock += 0.001
        return clock

    def hold_for_an_hour() -> None:
        nonlocal clock
        if not context.still_s:
            clock += 3600.0
            context.pause(False, still_s=3600.0)

    context.wait_while_paused = hold_for_an_hour  # type: ignore[method-assign]
    original = trainer.Trainer.__init__

    def with_clock(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs, clock=tick)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handler.Trainer, "__init__", with_clock)
        run(context)
    paces = [m.values["tokens_per_s"] for m in sent if isinstance(m, JobMetric)]
    assert min(paces) > 1000.0


def test_one_that_is_not_held_says_nothing_about_pauses(tmp_path: Path) -> None:
    context, sent = make_job(tmp_path, recipe(steps=1))
    run(context)
    assert not any(isinstance(message, Paused) for message in sent)
