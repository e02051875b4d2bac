"""Kill sweep: one training, killed again and again at drawn steps; run by `make soak`."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
from harness import ROOT, Llmos, kill, running, until

STEPS = 2000
CHECKPOINT_EVERY = 25
SERVER_KILLS = 12
WORKER_KILLS = 2
"""Each counts as a failure of the job, and the third would end it."""
CHANGES = (
    f"steps={STEPS}",
    "batch_size=4",
    "eval_every=500",
    "eval_batches=2",
    f"checkpoint_every={CHECKPOINT_EVERY}",
)
RESULTS = ROOT / "bench" / "results" / "soak.json"


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_training_killed_at_every_turn_ends_with_the_same_weights(
    tmp_path: Path, play: Path, recipe: Path
) -> None:
    begun = time.monotonic()
    with running(tmp_path, LLMOS_HEARTBEAT_S="1", LLMOS_LEASE_S="5") as llmos:
        changes = (*CHANGES, f"data.path={play}")
        llmos.succeeds(llmos.train(recipe, "calm", *changes), timeout_s=1200)
        number = llmos.train(recipe, "killed", *changes)
        kills = _sweep(llmos, number)
        job = llmos.succeeds(number, timeout_s=1200)
        same = llmos.weights("killed") == llmos.weights("calm")
    report = {
        "steps": STEPS,
        "kills": kills,
        "attempts": job["attempt"],
        "same_weights": same,
        "seconds": round(time.monotonic() - begun),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    assert same


def _sweep(llmos: Llmos, number: int) -> list[dict[str, object]]:
    """Kill the server and the worker at drawn steps; return what was killed when."""
    draw = random.Random(20261122)
    victims = ["server"] * SERVER_KILLS + ["worker"] * WORKER_KILLS
    draw.shuffle(victims)
    steps = sorted(draw.sample(range(10, STEPS - 200), len(victims)))
    kills: list[dict[str, object]] = []
    for victim, step in zip(victims, steps, strict=True):
        until(llmos.reaches_step(number, step), f"step {step}", 300)
        worker = until(llmos.worker, "a worker")
        if victim == "worker":
            kill(worker)
        else:
            kill(llmos.server)
            until(lambda worker=worker: not worker.is_running(), "the worker to end")
            llmos.up()
        kills.append({"victim": victim, "at_step": step})
    return kills
