"""How long a checkpoint keeps training waiting: a GPT-2 of 124M parameters with AdamW's moments.

Trains a few steps of one short sequence, and checkpoints after every few of them through what the
trainer uses. Prints for each the stall (until the next step may begin), how long it was written in
the background, and what a plain write takes; writes results/checkpoint.json.

    python bench/checkpoint.py [--checkpoints 5] [--steps 4] [--directory DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as llmos starts its workers

import psutil
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from llmos.training import checkpoint
from llmos.training.checkpoint import Progress
from llmos.training.checkpoint_writer import CheckpointWriter
from llmos.training.optimizers import build_optimizer
from llmos.training.recipe_sections import OptimizerSection

RESULTS = Path(__file__).parent / "results"
LONGEST_STALL_S = 0.5
LENGTH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="between checkpoints, at least")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--directory", type=Path, help="where to write; a temporary one if not")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory(prefix="llmos-bench-", dir=options.directory) as directory:
        report = measured(Path(directory), options.checkpoints, options.steps)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "checkpoint.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    for key, values in report.items():
        if isinstance(values, list):
            print(f"{key:<20}{statistics.median(values):8.3f}   most {max(values):.3f}")
    if max(report["stall_s"]) > LONGEST_STALL_S:
        sys.exit(f"missed: a stall of at most {LONGEST_STALL_S} s")


def measured(directory: Path, num_checkpoints: int, num_steps: int) -> dict[str, Any]:
    """Return seconds: of each stall, of each write, and of steps with and without one under way."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    optimizer = build_optimizer(model, OptimizerSection(learning_rate=1e-4))
    ids = torch.randint(50257, (1, LENGTH))
    writer, progress = CheckpointWriter(directory / "background"), Progress()
    report: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    seconds: dict[str, list[float]] = {
        name: [] for name in ("stall_s", "write_s", "step_s", "step_while_writing_s", "plain_s")
    }

    def step() -> float:
        began = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        return time.perf_counter() - began

    step()
    writer.reserve(model, optimizer, progress)
    while writer.is_busy:
        step()
    for _ in range(num_checkpoints):
        seconds["step_s"] += [step() for _ in range(num_steps)]
        began = time.perf_counter()
        writer.save(model, optimizer, progress)
        seconds["stall_s"].append(time.perf_counter() - began)
        while writer.is_busy:
            seconds["step_while_writing_s"].append(step())
        seconds["write_s"].append(time.perf_counter() - began)
    writer.wait()
    report["peak_bytes"] = psutil.Process().memory_info().rss
    for _ in range(num_checkpoints):
        step()
        began = time.perf_counter()
        checkpoint.save(directory / "plain", model, optimizer, progress)
        seconds["plain_s"].append(time.perf_counter() - began)
    return report | seconds


if __name__ == "__main__":
    main()
