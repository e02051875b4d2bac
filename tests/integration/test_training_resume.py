"""A killed run goes on to the very weights an uninterrupted one reaches, bit for bit on CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.training.tiny import make_job, make_recipe

from llmos.kernel.protocol import JobLog

WORKER = """
import json, os, signal, sys
from pathlib import Path
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric, StartJob
from llmos.training import checkpoint, handler

params, die_at = json.loads(sys.argv[1]), int(sys.argv[4])
die_writing, sync = int(sys.argv[5]), checkpoint.sync_file

def sync_file(path):
    sync(path)
    if path.name == "optimizer.safetensors" and f"{die_writing:08d}" in str(path):
        os.kill(os.getpid(), signal.SIGKILL)

checkpoint.sync_file = sync_file

def send(message):
    if isinstance(message, JobMetric) and message.step == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

start = StartJob(job_id=1, fence=1, attempt=1, handler="", name="tiny", params=params,
                 owner="admin", home=sys.argv[2], checkpoint_dir=sys.argv[3], threads=2,
                 heartbeat_s=10.0)
handler.run(JobContext(start, send))
"""
DROPOUT = {"n_layer": 1, "n_head": 2, "n_embd": 16, "attn_pdrop": 0.1, "resid_pdrop": 0.1}


@pytest.mark.parametrize(
    ("task", "deaths"),
    [
        ("generate", [8, 17]),
        ("chat", [12]),
        pytest.param(
            "translate", range(1, 23), marks=[pytest.mark.soak, pytest.mark.timeout(1800)]
        ),
    ],
)
def test_kill_9_and_resume_equals_never_stopping(
    task: str, deaths: Sequence[int], tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"steps": 23, "checkpoint_every": 5, "eval_every": 4}
    if task == "generate":
        changes["model"] = {"architecture": "gpt2", "config": DROPOUT}
    recipe = make_recipe(task, publish="best", **changes)
    params = {"recipe": recipe, "name": "tiny", "data": {}, "base": None}

    def run(name: str, die_at: int = 0, die_writing: int = 99) -> int:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        arguments = [json.dumps(params), str(tmp_path / "home"), str(directory), str(die_at)]
        arguments.append(str(die_writing))
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-c", WORKER, *arguments]
        return subprocess.run(command, env=environment, timeout=240).returncode

    assert run("whole") == 0
    for step in deaths:
        assert run("killed", die_at=step) == -signal.SIGKILL
    assert run("killed", die_writing=20) == -signal.SIGKILL
    assert run("killed") == 0
    for path in ("weights.safetensors", "optimizer.safetensors", "best.safetensors"):
        whole, killed = (
            tmp_path / name / "checkpoints" / "step-00000023" / path for name in ("whole", "killed")
        )
        assert whole.read_bytes() == killed.read_bytes()
    curves = [
        [(p["step"], p["loss"], p.get("validation_loss")) for p in points]
        for points in (
            json.loads((tmp_path / name / "model" / "loss.json").read_text())["points"]
            for name in ("whole", "killed")
        )
    ]
    assert curves[0] == curves[1]


def test_a_resumed_job_says_where_it_goes_on(tmp_path: Path) -> None:
    from llmos.training import handler

    context, _ = make_job(tmp_path, make_recipe("generate"))
    handler.run(context)
    context, sent = make_job(tmp_path, make_recipe("generate", steps=6))
    handler.run(context)
    lines = [message.line for message in sent if isinstance(message, JobLog)]
    assert "going on from the checkpoint of step 4" in lines
