"""Trainings that are killed by SIGKILL: each is a process of its own, forked from one that has
imported everything and trains nothing itself."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORKER = """
import json, os, psutil, signal, sys, traceback
import matplotlib.backends.backend_agg, matplotlib.figure
import transformers
from pathlib import Path
from safetensors.torch import save_file
from llmos.kernel.context import JobContext
from llmos.kernel.protocol import StartJob
from llmos.training import checkpoint, handler, watching
from llmos.training.vectors import glove, windows
from llmos.types import JobResult

for name in ("GPT2LMHeadModel", "LlamaForCausalLM", "MarianMTModel", "BertModel",
             "ModernBertModel", "T5ForConditionalGeneration"):
    getattr(transformers, name)  # is loaded when it is asked for
windows.CHUNK_WORDS, glove.STEP_CELLS = 500, 700  # several steps of a short text
watching._measured_peak = lambda *args: 1.0  # of the processor: it takes a while

def publish_version(context, trainer, *args):
    model = trainer.model
    weights = {name: one.contiguous() for name, one in checkpoint.weights_of(model).items()}
    save_file(weights, context.checkpoint_dir / "last.safetensors")
    return JobResult({}, ())

handler.publish_version = publish_version

def die(told):
    others = [child.pid for child in psutil.Process().children()]
    (Path(told["directory"]) / "others.json").write_text(json.dumps(others))
    os.kill(os.getpid(), signal.SIGKILL)

def train(told):
    start = StartJob(job_id=1, fence=1, attempt=1, handler="", name="tiny", params=told["params"],
                     owner="admin", home=told["home"], checkpoint_dir=told["directory"],
                     threads=told["threads"], heartbeat_s=10.0)
    context = JobContext(start, lambda message: None)
    wait, sync, pauses = context.wait_while_paused, checkpoint.sync_file, 0

    def wait_while_paused():
        nonlocal pauses
        pauses += 1
        if pauses == told["pause"]:
            die(told)
        wait()

    def sync_file(path):
        sync(path)
        if f"{told['writing']:08d}" in str(path) and path.name == "optimizer.safetensors":
            die(told)

    context.wait_while_paused, checkpoint.sync_file = wait_while_paused, sync_file
    handler.run(context)

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)  # what it prints is no status
        try:
            train(json.loads(line))
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
NEVER = 0
TIMES = frozenset({"seconds", "tokens_per_s", "words_per_s"})
"""Of a checkpoint's state, what no two runs have alike."""


class Forker:
    """Trains in processes of their own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(
        self,
        params: dict[str, Any],
        home: Path,
        directory: Path,
        *,
        pause: int = NEVER,
        writing: int = NEVER,
        threads: int = 1,
    ) -> int:
        """Run a train job in ``directory``, which an earlier attempt may have been in; return its
        exit status, negative for the signal it was killed by.

        Args:
            pause: how often it asks whether it is to pause (each micro-batch does) until it dies.
            writing: the step whose checkpoint it dies in, most of the files written.

        Where it dies it leaves the ids of its own processes in `others.json`.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        directory.mkdir(parents=True, exist_ok=True)
        told = {"params": params, "home": str(home), "directory": str(directory)}
        told |= {"pause": pause, "writing": writing, "threads": threads}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def forker() -> Iterator[Forker]:
    """Start the process that others are forked from."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-c", FORKER]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        yield Forker(process)


def left_by(directory: Path) -> dict[str, str]:
    """What a training has come to, as digests: every tensor file, and every checkpoint's curve,
    random state and whatever else is no time."""
    left: dict[str, str] = {}
    for path in sorted(directory.rglob("*")):
        name = str(path.relative_to(directory))
        if path.suffix == ".safetensors":
            left[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "state.json":
            for key, value in _timeless(json.loads(path.read_text())).items():
                left[f"{name} {key}"] = hashlib.sha256(json.dumps(value).encode()).hexdigest()
    return left


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}
    return [_timeless(inner) for inner in value] if isinstance(value, list) else value
