"""Versions of chosen steps: what they hold, and that a killed run makes the very same ones."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tests.unit.training.tiny import make_job, make_recipe

from llmos.kernel.protocol import JobLog
from llmos.training import handler

WORKER = """
import json, os, signal, sys
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import JobMetric, StartJob
from llmos.training import handler

def send(message):
    if isinstance(message, JobMetric) and message.step == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)

start = StartJob(job_id=1, fence=1, attempt=1, handler="", name="tiny",
                 params=json.loads(sys.argv[1]), owner="admin", home=sys.argv[2],
                 checkpoint_dir=sys.argv[3], threads=1, heartbeat_s=10.0)
result = handler.run(JobContext(start, send))
print(json.dumps([{name: ref.digest for name, ref in version.files.items()}
                  for version in result.artifacts]))
"""


def test_each_step_to_keep_is_a_version_of_its_own_and_the_last_comes_last(tmp_path: Path) -> None:
    recipe = make_recipe("chat", steps=9, checkpoint_every=2, eval_every=3, keep_at=[3, 5])
    context, _ = make_job(tmp_path / "kept", recipe)
    result = handler.run(context)
    sources = [version.manifest["source"] for version in result.artifacts]
    assert [source["steps"] for source in sources] == [3, 5, 9]
    assert len({version.files["model.safetensors"].digest for version in result.artifacts}) == 3
    told = result.summary["checkpoints"]
    assert [one["step"] for one in told] == [3, 5, 9]
    for one, version in zip(told, result.artifacts, strict=True):
        metrics = version.manifest["metrics"]
        assert one["full_validation_loss"] == metrics["validation_loss"]
        assert one["full_validation_token_accuracy"] == metrics["token_accuracy"]
        assert {"loss", "validation_loss", "validation_token_accuracy"} <= one.keys()
        table = context.blobs.path(version.files["step_metrics.csv"].digest)
        rows = [*csv.DictReader(table.read_text().splitlines())]
        assert int(rows[-1]["step"]) == one["step"]
        assert float(rows[-1]["valid_loss"]) == one["validation_loss"]
        assert float(rows[-1]["valid_mean_token_accuracy"]) == one["validation_token_accuracy"]
    short, _ = make_job(tmp_path / "short", recipe | {"steps": 5, "keep_at": []})
    short_recipe = short.params["recipe"]
    short_recipe["optimizer"]["schedule"] = "constant"
    whole, _ = make_job(tmp_path / "whole", {**recipe, "optimizer": short_recipe["optimizer"]})
    weights = [
        load_file(context.blobs.path(made.files["model.safetensors"].digest))
        for context, made in (
            (short, handler.run(short).artifacts[-1]),
            (whole, handler.run(whole).artifacts[1]),
        )
    ]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0]), (
        "a version of step 5 is what a training of 5 steps makes"
    )


def test_a_step_that_was_not_reached_makes_no_version(tmp_path: Path) -> None:
    slow = {"learning_rate": 1e-12, "warmup_steps": 0}
    changes: dict[str, Any] = {"steps": 40, "eval_every": 2, "early_stopping": 1}
    recipe = make_recipe("generate", **changes, keep_at=[1, 39], optimizer=slow)
    context, sent = make_job(tmp_path, recipe)
    result = handler.run(context)
    steps = [version.manifest["source"]["steps"] for version in result.artifacts]
    assert steps == [1, 2]
    assert any("no better" in message.line for message in sent if isinstance(message, JobLog))


@pytest.mark.parametrize("task", ["generate", "chat"])
def test_a_killed_run_makes_the_same_versions(task: str, tmp_path: Path) -> None:
    dropout = {"n_layer": 1, "n_head": 2, "n_embd": 16, "resid_pdrop": 0.1}
    changes: dict[str, Any] = {"steps": 12, "checkpoint_every": 4, "keep_at": [2, 7]}
    if task == "generate":
        changes |= {"ema": 0.9, "model": {"architecture": "gpt2", "config": dropout}}
    params = {"recipe": make_recipe(task, **changes), "name": "tiny", "data": {}, "base": None}

    def run(name: str, die_at: int = 0) -> list[dict[str, str]]:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        arguments = [json.dumps(params), str(tmp_path / "home"), str(directory), str(die_at)]
        done = subprocess.run(
            [sys.executable, "-c", WORKER, *arguments],
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
            stdout=subprocess.PIPE,
            timeout=240,
        )
        assert done.returncode == (-signal.SIGKILL if die_at else 0)
        return [] if die_at else list(json.loads(done.stdout.splitlines()[-1]))

    whole = run("whole")
    for step in (1, 6, 11):
        run("killed", step)
    again = run("killed")
    assert len(whole) == len(again) == 3
    for one, other in zip(whole, again, strict=True):
        assert one["model.safetensors"] == other["model.safetensors"]
    assert len({one["model.safetensors"] for one in whole}) == 3
